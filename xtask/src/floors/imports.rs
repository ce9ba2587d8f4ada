//! Reads the imports between the top modules of a crate from its source. Knows nothing of floors.
//!
//! An import is a `use` or a path that begins with `crate`, `self` or `super` and ends in another top module. A name
//! that is already in scope is not resolved: the `use` that brought it there was the import.

use super::Files;
use anyhow::{Context, Result};
use proc_macro2::{Ident, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fmt;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, Token, UseName, UseRename, UseTree};

/// The predicates of `cfg` under which code is no part of the product.
const TEST_PREDICATES: [&str; 2] = ["test", r#"any(test,feature="testing")"#];

/// A line that imports from another top module. Ordered by file and line.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// The importing file, below `shared/src` as is `to`.
    pub(super) from: String,
    pub(super) line: usize,
    /// The file of the innermost module that the path names; `lib.rs` if it names none.
    pub(super) to: String,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared/src/{}:{} imports shared/src/{}", self.from, self.line, self.to)
    }
}

/// The module of `lib.rs` that `file` belongs to; `lib` for `lib.rs`.
pub(super) fn top_module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// The modules and imports of a core, and the state of the reader that collects them.
pub(super) struct Core<'a> {
    /// The modules that `lib.rs` declares.
    pub(super) modules: BTreeSet<String>,
    pub(super) imports: BTreeSet<Import>,
    files: &'a Files,
    /// The file that is being read, which inline modules share.
    file: String,
    /// The path of the module that is being read; empty for the crate's root.
    module: Vec<String>,
    /// Modules that were declared and are still to be read.
    unread: Vec<Vec<String>>,
}

impl<'a> Core<'a> {
    /// Follows the `mod` declarations from `lib.rs` on, so files that only tests declare are never read.
    ///
    /// # Errors
    /// A declared module without a file, and a file that is not Rust.
    pub(super) fn read(files: &'a Files) -> Result<Self> {
        let (modules, imports) = (BTreeSet::new(), BTreeSet::new());
        let (file, module, unread) = (String::new(), Vec::new(), vec![Vec::new()]);
        let mut core = Self { modules, imports, files, file, module, unread };
        while let Some(module) = core.unread.pop() {
            let file = file_of(&module);
            let text = files.get(&file).with_context(|| format!("there is no shared/src/{file}"))?;
            let tree =
                syn::parse_file(text).with_context(|| format!("shared/src/{file} cannot be parsed"))?;
            (core.file, core.module) = (file, module);
            core.visit_file(&tree);
        }
        Ok(core)
    }
}

/// Visits nodes of these kinds unless they are test code. The syntax tree has no common access to attributes.
macro_rules! skip_tests {
    ($($visit:ident $Node:ident,)*) => {$(
        fn $visit(&mut self, node: &'ast syn::$Node) {
            if !is_test(&node.attrs) {
                visit::$visit(self, node);
            }
        }
    )*};
}

impl<'ast> Visit<'ast> for Core<'_> {
    skip_tests! {
        visit_item_const ItemConst, visit_item_static ItemStatic, visit_item_fn ItemFn, visit_item_macro ItemMacro,
        visit_item_struct ItemStruct, visit_item_enum ItemEnum, visit_item_type ItemType, visit_field Field,
        visit_item_trait ItemTrait, visit_trait_item_fn TraitItemFn,
        visit_item_impl ItemImpl, visit_impl_item_fn ImplItemFn, visit_impl_item_const ImplItemConst,
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if is_test(&node.attrs) {
            return;
        }
        let name = node.ident.to_string();
        if self.module.is_empty() {
            self.modules.insert(name.clone());
        }
        self.module.push(name);
        match node.content {
            Some(_) => visit::visit_item_mod(self, node),
            None => self.unread.push(self.module.clone()),
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, node: &'ast syn::ItemUse) {
        if !is_test(&node.attrs) {
            self.use_tree(Vec::new(), &node.tree);
        }
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        self.path(&node.segments.iter().map(|segment| segment.ident.clone()).collect::<Vec<_>>());
        visit::visit_path(self, node);
    }

    /// Looks into macro calls, macro definitions and attributes.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.tokens(tokens.clone());
    }
}

impl Core<'_> {
    fn use_tree(&mut self, mut path: Vec<Ident>, tree: &UseTree) {
        match tree {
            UseTree::Path(node) => {
                path.push(node.ident.clone());
                self.use_tree(path, &node.tree);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(path.clone(), tree)),
            UseTree::Glob(_) => self.import(&path),
            UseTree::Name(UseName { ident }) | UseTree::Rename(UseRename { ident, .. }) => {
                path.push(ident.clone());
                self.import(&path);
            }
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let scan = |input: ParseStream<'_>| {
            while !input.is_empty() {
                match input.parse()? {
                    TokenTree::Group(group) => self.tokens(group.stream()),
                    TokenTree::Ident(first) => {
                        let mut path = vec![first];
                        while input.parse::<Token![::]>().is_ok()
                            && let Ok(ident) = input.call(Ident::parse_any)
                        {
                            path.push(ident);
                        }
                        self.path(&path);
                    }
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
            }
            Ok(())
        };
        // Any token is a token tree, so this reads to the end and cannot fail.
        scan.parse2(tokens).unwrap_or_default();
    }

    /// Imports by a path outside of `use`. There a lone `crate`, `super` or `self` is a visibility or a value.
    fn path(&mut self, path: &[Ident]) {
        if path.len() > 1 {
            self.import(path);
        }
    }

    /// Adds what `path`, written in the current module, imports.
    fn import(&mut self, path: &[Ident]) {
        let ([first, ..], [.., last]) = (path, path) else { return };
        if !["crate", "self", "super"].iter().any(|keyword| first == keyword) {
            return;
        }
        let mut target = self.module.clone();
        for ident in path {
            match ident.to_string().as_str() {
                "crate" => target.clear(),
                "self" => {}
                "super" => drop(target.pop()),
                name => target.push(name.to_owned()),
            }
        }
        // The last names may be items, or modules inside of a file. The root always has a file.
        while !self.files.contains_key(&file_of(&target)) {
            target.pop();
        }
        let to = file_of(&target);
        if top_module(&to) != top_module(&self.file) {
            let line = last.span().start().line;
            self.imports.insert(Import { from: self.file.clone(), line, to });
        }
    }
}

fn file_of(module: &[String]) -> String {
    match module {
        [] => "lib.rs".to_owned(),
        module => format!("{}.rs", module.join("/")),
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            TEST_PREDICATES.contains(&list.tokens.to_string().replace(' ', "").as_str())
        }
        _ => false,
    })
}
