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
        let lines: Vec<String> = self.list.iter().map(|mistake| mistake.text(&self.file)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Mistake {
    /// The mistake as one line of text, which begins with its place in `file`.
    fn text(&self, file: &str) -> String {
        let Self { line, key, why } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        match line {
            0 => format!("{file}: {key}{colon}{why}"),
            line => format!("{file}:{line}: {key}{colon}{why}"),
        }
    }
}

/// A value and its byte offset in the file.
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// The secrets that a section names.
pub(super) struct Secrets {
    /// Those whose environment variables are set.
    pub(super) values: Vec<Secret>,
    /// The environment variables that are not set.
    pub(super) unset: Vec<UnsetVariable>,
}

/// An environment variable that the file names and that is not set.
pub(super) struct UnsetVariable {
    pub(super) name: String,
    /// The key that names it, such as `provider[2].api_key`.
    pub(super) path: String,
    /// The byte offset of the key's value.
    pub(super) at: usize,
}

const EACH_IN_QUOTES: &str = "a list of strings, each in quotes";

/// An item of a list.
pub(super) enum Item<'a> {
    Text(Located<String>),
    Table(Section<'a>),
}

/// The parsed file and the mistakes found so far.
pub(super) struct ConfigReader<'a> {
    text: &'a str,
    file: &'a str,
    table: DeTable<'a>,
    env: &'a dyn Fn(&str) -> Option<String>,
    mistakes: RefCell<Vec<Mistake>>,
    /// What does not keep the node from running.
    warnings: RefCell<Vec<Mistake>>,
    /// The names of tables so far, each after the kind of its table.
    names: RefCell<BTreeSet<(String, String)>>,
}

impl<'a> ConfigReader<'a> {
    pub(super) fn new(
        text: &'a str,
        file: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let reader = Self {
            text,
            file,
            table: table.into_inner(),
            env,
            mistakes: RefCell::default(),
            warnings: RefCell::default(),
            names: RefCell::default(),
        };
        for error in &errors {
            // Only the first line: the rest quotes the file, and a line may hold a secret.
            let why = error.message().lines().next().unwrap_or("not TOML").to_owned();
            reader.mistake(error.span().map_or(0, |span| span.start.max(1)), "", why);
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
        self.mistakes.borrow_mut().push(self.located(at, key, why));
    }

    /// Records what the operator should know, although the node can run.
    pub(super) fn warning(&self, at: usize, key: &str, why: String) {
        self.warnings.borrow_mut().push(self.located(at, key, why));
    }

    fn located(&self, at: usize, key: &str, why: String) -> Mistake {
        let line = match at {
            0 => 0,
            // The first line starts at 0, which stands for the whole file, so offsets in it may be one too large.
            at => 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
        };
        Mistake { line, key: key.into(), why }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    pub(super) fn finish<T>(&self, value: T) -> Result<T, Mistakes> {
        if self.is_clean() { Ok(value) } else { Err(self.mistakes()) }
    }

    /// The warnings, a line of text for each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut list = self.warnings.borrow().clone();
        list.sort_by_key(|warning| warning.line);
        list.iter().map(|warning| warning.text(self.file)).collect()
    }

    /// The mistakes, among the warnings: a mistake may follow from what a warning tells.
    fn mistakes(&self) -> Mistakes {
        let mut list = [self.mistakes.borrow().as_slice(), self.warnings.borrow().as_slice()].concat();
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

    /// The byte offset of the value of `key`; the section's if the key is missing.
    pub(super) fn at_of(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.at, |value| value.span().start.max(1))
    }

    /// The byte offset of each key's value.
    pub(super) fn positions(&self) -> impl Iterator<Item = (String, usize)> {
        self.table.iter().map(|(key, value)| (key.as_ref().to_string(), value.span().start.max(1)))
    }

    /// Checks that no earlier table of this kind has the name.
    pub(super) fn check_unique(&self, name: &Located<String>) {
        let kind = self.path.split('[').next().unwrap_or_default().to_owned();
        if !self.reader.names.borrow_mut().insert((kind, name.value.clone())) {
            self.mistake(name.at, "name", format!("{:?} is used twice; allowed: each name once", name.value));
        }
    }

    /// The prefix of its keys in mistakes, such as `provider[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the value of `key` is a list.
    pub(super) fn is_array(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_array().is_some())
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
            let why = format!("unknown key; {}", allowed_names(key.as_ref(), known_keys.iter().copied()));
            self.mistake(key.span().start.max(1), key.as_ref(), why);
        }
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Located<String>> {
        self.string_with_unit(key, "")
    }

    /// A string. If the file has a number instead, the mistake shows it in quotes and with the unit.
    fn string_with_unit(&self, key: &'static str, unit: &str) -> Option<Located<String>> {
        let (value, at) = self.value(key)?;
        if let DeValue::String(text) = value {
            return Some(Located { value: text.to_string(), at });
        }
        let form = scalar(value).map(|scalar| format!(", such as {key} = \"{scalar}{unit}\""));
        self.wrong_type(key, at, value, &format!("a string{}", form.unwrap_or_default()))
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
            other => self.wrong_type(key, at, other, &format!("{key} = true, or {key} = false")),
        }
    }

    pub(super) fn strings(&self, key: &'static str) -> Vec<Located<String>> {
        let items = self.items(key).into_iter();
        items
            .filter_map(|item| match item {
                Item::Text(text) => Some(text),
                Item::Table(table) => {
                    self.mistake(table.at, key, format!("a table; allowed: {EACH_IN_QUOTES}"));
                    None
                }
            })
            .collect()
    }

    /// A list of strings, some of which may be written as tables.
    pub(super) fn items(&self, key: &'static str) -> Vec<Item<'a>> {
        let Some((value, at)) = self.value(key) else { return Vec::new() };
        let values = match value {
            DeValue::Array(values) => values,
            // Read as a list of one, so that the only mistake about it is that of the form.
            DeValue::String(text) => {
                self.wrong_type::<()>(key, at, value, &format!("a list of strings: {key} = [{text:?}]"));
                return vec![Item::Text(Located { value: text.to_string(), at })];
            }
            other => {
                self.wrong_type::<()>(key, at, other, &format!("a list of strings: {key} = [\"…\"]"));
                return Vec::new();
            }
        };
        let numbered = values.iter().map(|value| (value.as_ref(), value.span().start)).enumerate();
        numbered
            .filter_map(|(i, (value, at))| match value {
                DeValue::String(text) => Some(Item::Text(Located { value: text.to_string(), at })),
                DeValue::Table(table) => {
                    Some(Item::Table(self.child(table, format!("{}[{}]", self.name(key), i + 1), at)))
                }
                other => self.wrong_type(key, at, other, EACH_IN_QUOTES),
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
            let allowed = allowed_names(&text.value, names.iter().map(|(name, _)| *name));
            self.mistake(text.at, key, format!("{:?}; {allowed}", text.value));
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
            // Only a number is shown: any other text may be what must not be in a log.
            let quoted = value.as_str().filter(|text| text.parse::<u64>().is_ok());
            let form = quoted.map(|number| format!(", without quotes: {key} = {number}"));
            let allowed = format!("a whole number from {least} to {most}{}", form.unwrap_or_default());
            return self.wrong_type(key, at, value, &allowed);
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

    /// A short pause such as `"2s"`: from none to a minute.
    pub(super) fn pause(&self, key: &'static str) -> Option<Duration> {
        self.time(key, 0..=60_000, "\"0s\" to \"60s\" in ms, s or m")
    }

    /// A duration such as `"12h"` or `"30d"`: from a minute, the interval of ticks, to ten years.
    pub(super) fn lifetime(&self, key: &'static str) -> Option<Duration> {
        self.time(key, 60_000..=3650 * DAY_MILLIS, "\"1m\" to \"3650d\" in s, m, h or d")
    }

    fn time(&self, key: &'static str, bounds: RangeInclusive<u64>, allowed: &str) -> Option<Duration> {
        let text = self.string_with_unit(key, "s")?;
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
    pub(super) fn secrets(&self, one: &'static str, many: &'static str) -> Secrets {
        let mut secrets = Secrets { values: Vec::new(), unset: Vec::new() };
        if let Some((value, at)) = self.value(one) {
            self.read_secret(one, value, at, &mut secrets);
        }
        match self.value(many) {
            None => {}
            Some((DeValue::Array(values), _)) => {
                for value in values {
                    self.read_secret(many, value.as_ref(), value.span().start, &mut secrets);
                }
            }
            Some((_, at)) => self.mistake(at, many, "not a list; allowed: [{ env = \"NAME\" }, …]".into()),
        }
        secrets
    }

    /// Adds a secret to `secrets`. Mistakes never show the value: it may be the secret itself.
    fn read_secret(&self, key: &'static str, value: &DeValue<'_>, at: usize, secrets: &mut Secrets) {
        let name = match value {
            DeValue::Table(table) if table.len() == 1 => table.get("env").map(Spanned::as_ref),
            _ => None,
        };
        let Some(DeValue::String(name)) = name else {
            self.mistake(at, key, SECRET_IN_FILE.into());
            return;
        };
        let Some(text) = (self.reader.env)(name).filter(|text| !text.trim().is_empty()) else {
            secrets.unset.push(UnsetVariable { name: name.to_string(), path: self.name(key), at });
            return;
        };
        let secret = Secret::new(text);
        if secret.is_none() {
            let why = format!("the environment variable {name} holds characters that no header carries");
            self.mistake(at, key, why);
        }
        secrets.values.extend(secret);
    }

    pub(super) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let (value, at) = self.value(key)?;
        match value {
            DeValue::Table(table) => Some(self.child(table, self.name(key), at)),
            other if self.path.is_empty() => self.wrong_type(key, at, other, &format!("one table: [{key}]")),
            other => self.wrong_type(key, at, other, &format!("a table: {key} = {{ … }}")),
        }
    }

    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        // Every table is read at every start of every isolate.
        const MAX: usize = 512;
        let Some((value, at)) = self.value(key) else { return Vec::new() };
        let allowed = format!("a list of tables, each under [[{key}]]");
        let DeValue::Array(values) = value else {
            self.wrong_type::<()>(key, at, value, &allowed);
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
                other => self.wrong_type(key, value.span().start, other, &allowed),
            })
            .collect()
    }

    fn child(&self, table: &'a DeTable<'a>, path: String, at: usize) -> Section<'a> {
        Section { reader: self.reader, table, path, at: at.max(1), known_keys: RefCell::default() }
    }

    fn value(&self, key: &'static str) -> Option<(&'a DeValue<'a>, usize)> {
        self.known_keys.borrow_mut().insert(key);
        let value = self.table.get(key)?;
        Some((value.as_ref(), value.span().start.max(1)))
    }

    fn wrong_type<T>(&self, key: &str, at: usize, value: &DeValue<'_>, allowed: &str) -> Option<T> {
        let found = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(true) => "true",
            DeValue::Boolean(false) => "false",
            DeValue::Datetime(_) => "a time without quotes",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.mistake(at, key, format!("{found}; allowed: {allowed}"));
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

/// What is allowed out of `names` instead of `text`, after the name that was probably meant.
pub(super) fn allowed_names<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    // A longer text is no misspelt name, and would only cost time.
    const MAX_BYTES: usize = 64;
    let lower = text.to_lowercase();
    // One letter in three may differ, as in the compiler's suggestions.
    let close = names.iter().filter(|_| text.len() <= MAX_BYTES).filter_map(|name| {
        let distance = strsim::osa_distance(&lower, name);
        (distance <= lower.len().max(name.len()) / 3).then_some((distance, name))
    });
    let meant = close.min().map(|(_, name)| format!("did you mean {name:?}? ")).unwrap_or_default();
    format!("{meant}allowed: {}", names.join(", "))
}

/// A value that would be allowed in quotes, as the file has it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
