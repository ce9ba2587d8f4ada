//! Reads typed values from TOML and collects all mistakes, each with its line. Knows no section of `agent.toml`.

use std::{cell::RefCell, collections::BTreeSet, fmt, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::secret::Secret;

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line in the file, from 1; 0 if the mistake is about the whole file.
    pub line: usize,
    /// The key, such as `provider[2].kind`; empty if the file is not valid TOML.
    pub key: String,
    /// The value that was found, and what is allowed.
    pub why: String,
}

/// All mistakes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    list: Vec<Mistake>,
}

impl Mistakes {
    /// A single mistake about the whole file.
    pub fn one(file: &str, why: String) -> Self {
        Self { file: file.into(), list: vec![Mistake { line: 0, key: String::new(), why }] }
    }

    /// The mistakes, in the order of their lines.
    pub fn list(&self) -> &[Mistake] {
        &self.list
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.list.iter().enumerate() {
            let Mistake { line, key, why } = mistake;
            let newline = if i == 0 { "" } else { "\n" };
            let colon = if key.is_empty() { "" } else { ": " };
            match line {
                0 => write!(f, "{newline}{}: {key}{colon}{why}", self.file)?,
                line => write!(f, "{newline}{}:{line}: {key}{colon}{why}", self.file)?,
            }
        }
        Ok(())
    }
}

/// A value and its byte offset in the file.
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// The parsed file and the mistakes found so far.
pub(super) struct ConfigReader<'a> {
    text: &'a str,
    file: &'a str,
    table: DeTable<'a>,
    env: &'a dyn Fn(&str) -> Option<String>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'a> ConfigReader<'a> {
    pub(super) fn new(
        text: &'a str,
        file: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let reader = Self { text, file, table: table.into_inner(), env, mistakes: RefCell::default() };
        for error in &errors {
            // Only the first line: the rest quotes the file, and a line may hold a secret.
            let why = error.message().lines().next().unwrap_or("not TOML").to_owned();
            reader.mistake(error.span().map_or(0, |span| span.start), "", why);
        }
        if errors.is_empty() { Ok(reader) } else { Err(reader.mistakes()) }
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section {
            reader: self,
            table: &self.table,
            path: String::new(),
            at: 0,
            known_keys: RefCell::default(),
        }
    }

    /// Records a mistake; `at` is a byte offset in the text, 0 for the whole file.
    pub(super) fn mistake(&self, at: usize, key: &str, why: String) {
        let line = match at {
            0 => 0,
            at => 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
        };
        self.mistakes.borrow_mut().push(Mistake { line, key: key.into(), why });
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    pub(super) fn finish<T>(&self, value: T) -> Result<T, Mistakes> {
        if self.is_clean() { Ok(value) } else { Err(self.mistakes()) }
    }

    fn mistakes(&self) -> Mistakes {
        let mut list = self.mistakes.borrow().clone();
        list.sort_by_key(|mistake| mistake.line);
        Mistakes { file: self.file.into(), list }
    }
}

/// One table. Each read records its key, so that [`Section::finish`] can report the keys that no read has named.
pub(super) struct Section<'a> {
    reader: &'a ConfigReader<'a>,
    table: &'a DeTable<'a>,
    path: String,
    at: usize,
    known_keys: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The prefix of its keys in mistakes, such as `provider[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn mistake(&self, at: usize, key: &str, why: String) {
        self.reader.mistake(at, &self.name(key), why);
    }

    /// Reports unknown keys. Must be called after all reads.
    pub(super) fn finish(&self) {
        let known_keys = self.known_keys.borrow();
        for (key, _) in self.table.iter().filter(|(key, _)| !known_keys.contains(key.as_ref().as_ref())) {
            let allowed = known_keys.iter().copied().collect::<Vec<_>>().join(", ");
            self.mistake(key.span().start.max(1), key.as_ref(), format!("unknown key; allowed: {allowed}"));
        }
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Located<String>> {
        let (value, at) = self.value(key)?;
        match value {
            DeValue::String(text) => Some(Located { value: text.to_string(), at }),
            other => self.wrong_type(key, at, other, "a string"),
        }
    }

    pub(super) fn required(&self, key: &'static str) -> Option<Located<String>> {
        if !self.has(key) {
            self.known_keys.borrow_mut().insert(key);
            self.mistake(self.at, key, "missing; allowed: a string".into());
        }
        self.string(key)
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let (value, at) = self.value(key)?;
        match value {
            DeValue::Boolean(value) => Some(*value),
            other => self.wrong_type(key, at, other, "true or false"),
        }
    }

    pub(super) fn strings(&self, key: &'static str) -> Vec<Located<String>> {
        let Some((value, at)) = self.value(key) else { return Vec::new() };
        let DeValue::Array(values) = value else {
            self.wrong_type::<()>(key, at, value, "a list of strings");
            return Vec::new();
        };
        values
            .iter()
            .filter_map(|value| match value.as_ref() {
                DeValue::String(text) => Some(Located { value: text.to_string(), at: value.span().start }),
                other => self.wrong_type(key, value.span().start, other, "a list of strings"),
            })
            .collect()
    }

    /// A required value out of `names`.
    pub(super) fn one_of<T: Copy>(&self, key: &'static str, names: &[(&str, T)]) -> Option<T> {
        if !self.has(key) {
            self.known_keys.borrow_mut().insert(key);
            self.mistake(self.at, key, format!("missing; allowed: {}", list_names(names)));
            return None;
        }
        let text = self.string(key)?;
        let found = names.iter().find(|(name, _)| *name == text.value).map(|(_, value)| *value);
        if found.is_none() {
            self.mistake(text.at, key, format!("{:?}; allowed: {}", text.value, list_names(names)));
        }
        found
    }

    /// An optional value out of `names`; `default` if the key is missing.
    pub(super) fn one_of_or<T: Copy>(&self, key: &'static str, names: &[(&str, T)], default: T) -> T {
        if self.has(key) {
            return self.one_of(key, names).unwrap_or(default);
        }
        self.known_keys.borrow_mut().insert(key);
        default
    }

    /// An integer from `least` to `most`.
    pub(super) fn whole(&self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let (value, at) = self.value(key)?;
        let DeValue::Integer(number) = value else {
            return self.wrong_type(key, at, value, "a whole number");
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let good = number.filter(|number| (least..=most).contains(number));
        if good.is_none() {
            let found = number.map_or_else(|| value.type_str().to_owned(), |number| number.to_string());
            self.mistake(at, key, format!("{found}; allowed: {least} to {most}"));
        }
        good
    }

    /// A duration such as `"500ms"`, `"30s"`, `"2m"` or `"1h"`, from a millisecond to a day.
    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.time(key, 1..=DAY_MILLIS, "\"1ms\" to \"24h\" in ms, s, m or h")
    }

    /// A duration such as `"12h"` or `"30d"`: from a minute, the interval of ticks, to ten years.
    pub(super) fn lifetime(&self, key: &'static str) -> Option<Duration> {
        self.time(key, 60_000..=3650 * DAY_MILLIS, "\"1m\" to \"3650d\" in s, m, h or d")
    }

    fn time(&self, key: &'static str, bounds: RangeInclusive<u64>, allowed: &str) -> Option<Duration> {
        let text = self.string(key)?;
        let split = text.value.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.value.len());
        let (digits, unit) = text.value.split_at(split);
        let factor = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            "d" => Some(DAY_MILLIS),
            _ => None,
        };
        let millis = factor.and_then(|factor| digits.parse::<u64>().ok()?.checked_mul(factor));
        let millis = millis.filter(|millis| bounds.contains(millis));
        if millis.is_none() {
            self.mistake(text.at, key, format!("{:?}; allowed: a time from {allowed}", text.value));
        }
        millis.map(Duration::from_millis)
    }

    /// Secrets, written `one = { env = "NAME" }` or `many = [{ env = "NAME" }, …]`.
    pub(super) fn secrets(&self, one: &'static str, many: &'static str) -> Vec<Secret> {
        let mut secrets: Vec<Secret> =
            self.value(one).and_then(|(value, at)| self.secret(one, value, at)).into_iter().collect();
        let Some((value, at)) = self.value(many) else { return secrets };
        match value {
            DeValue::Array(values) => {
                let keys = values.iter().map(|value| (value.as_ref(), value.span().start));
                secrets.extend(keys.filter_map(|(value, at)| self.secret(many, value, at)));
            }
            _ => self.mistake(at, many, "not a list; allowed: [{ env = \"NAME\" }, …]".into()),
        }
        secrets
    }

    /// Mistakes never show the value: it may be the secret itself.
    fn secret(&self, key: &'static str, value: &DeValue<'_>, at: usize) -> Option<Secret> {
        let DeValue::Table(table) = value else {
            self.mistake(at, key, SECRET_IN_FILE.into());
            return None;
        };
        let name = match (table.len(), table.get("env").map(Spanned::as_ref)) {
            (1, Some(DeValue::String(name))) => name.to_string(),
            _ => {
                self.mistake(at, key, SECRET_IN_FILE.into());
                return None;
            }
        };
        let Some(text) = (self.reader.env)(&name).filter(|text| !text.is_empty()) else {
            self.mistake(at, key, format!("the environment variable {name} is not set"));
            return None;
        };
        let secret = Secret::new(text);
        if secret.is_none() {
            self.mistake(
                at,
                key,
                format!("the environment variable {name} holds characters that no header carries"),
            );
        }
        secret
    }

    pub(super) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let (value, at) = self.value(key)?;
        match value {
            DeValue::Table(table) => Some(self.child(table, self.name(key), at)),
            other => self.wrong_type(key, at, other, "a table"),
        }
    }

    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        // Every table is read at every start of every isolate.
        const MAX: usize = 512;
        let Some((value, at)) = self.value(key) else { return Vec::new() };
        let DeValue::Array(values) = value else {
            self.mistake(at, key, format!("not a list of tables; allowed: [[{key}]]"));
            return Vec::new();
        };
        if values.len() > MAX {
            self.mistake(at, key, format!("{} tables; allowed: at most {MAX}", values.len()));
        }
        let numbered = values.iter().take(MAX).enumerate();
        numbered
            .filter_map(|(i, value)| match value.as_ref() {
                DeValue::Table(table) => {
                    Some(self.child(table, format!("{}[{}]", self.name(key), i + 1), value.span().start))
                }
                other => self.wrong_type(key, value.span().start, other, "a table"),
            })
            .collect()
    }

    fn child(&self, table: &'a DeTable<'a>, path: String, at: usize) -> Section<'a> {
        Section { reader: self.reader, table, path, at: at.max(1), known_keys: RefCell::default() }
    }

    fn value(&self, key: &'static str) -> Option<(&'a DeValue<'a>, usize)> {
        self.known_keys.borrow_mut().insert(key);
        let value = self.table.get(key)?;
        Some((value.as_ref(), value.span().start))
    }

    fn wrong_type<T>(&self, key: &str, at: usize, value: &DeValue<'_>, allowed: &str) -> Option<T> {
        self.mistake(at, key, format!("{} is not {allowed}", article(value.type_str())));
        None
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }
}

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

const SECRET_IN_FILE: &str = "a secret must not be in this file; allowed: { env = \"NAME\" }";

fn list_names<T>(names: &[(&str, T)]) -> String {
    names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
