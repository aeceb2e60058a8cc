//! What each file of a crate imports, read from its syntax: `use` of every form, and paths within code.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Expr, ItemMod, ItemUse, Macro, Path, Token, UseTree, Visibility, punctuated::Punctuated, visit, visit::Visit,
};

/// A module, by its path from the crate: `["stream", "pass"]`.
pub type Module = Vec<String>;

/// What is said in a file.
#[derive(Default)]
struct File {
    /// What names stand for, by `use`.
    names: BTreeMap<String, Vec<String>>,
    /// Those of them that are given on to others.
    given_on: BTreeSet<String>,
    /// Modules of which everything is imported.
    globs: Vec<Vec<String>>,
    /// Paths within code.
    paths: Vec<Vec<String>>,
}

/// The files of a crate, by their modules.
pub struct Imports(BTreeMap<Module, File>);

/// The module that a file of `src` makes.
fn module(path: &str) -> Module {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl Imports {
    /// Of these files, by their paths from `src/`.
    pub fn of<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let read = |(path, text): (&str, &str)| {
            let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut file = File::default();
            file.visit_file(&syntax);
            (module(path), file)
        };
        Self(files.map(read).collect())
    }

    /// For each file, the others that it imports from; what only gives names on imports nothing.
    pub fn edges(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let edges_of = |(module, file): (&Module, &File)| {
            let used =
                file.names.iter().filter(|(name, _)| !file.given_on.contains(*name)).map(|(_, path)| path.clone());
            // A path that begins with an imported name goes on from there.
            let paths = file.paths.iter().filter_map(|path| match file.names.get(&path[0]) {
                Some(target) => Some([target, &path[1..]].concat()),
                None => self.begins_here(module, path).then(|| path.clone()),
            });
            let targets = used.chain(file.globs.iter().cloned()).chain(paths);
            let targets = targets.filter_map(|path| self.target(module, path)).filter(|target| target != module);
            (module.clone(), targets.collect())
        };
        self.0.iter().map(edges_of).collect()
    }

    /// The file that defines what a path in `module` names; `None` for other crates.
    fn target(&self, module: &Module, path: Vec<String>) -> Option<Module> {
        let mut path = self.absolute(module, path)?;
        // As many steps as names can be given on.
        for _ in 0..16 {
            let mut at = Module::new();
            let mut rest = path.iter();
            let stopped = loop {
                let Some(name) = rest.next() else { break None };
                at.push(name.clone());
                if !self.0.contains_key(&at) {
                    at.pop();
                    break Some(name.clone());
                }
            };
            let given = stopped.and_then(|name| self.0.get(&at)?.given_on.get(&name));
            let Some(name) = given else { return Some(at) };
            let target = self.absolute(&at, self.0[&at].names[name].clone())?;
            path = target.into_iter().chain(rest.cloned()).collect();
        }
        panic!("{path:?} in {module:?} has no end");
    }

    /// Whether a path in code says by itself where it begins: the crate, or a module above or below.
    fn begins_here(&self, module: &Module, path: &[String]) -> bool {
        let below = || self.0.contains_key(&[module.as_slice(), &path[..1]].concat());
        path.len() > 1 && (["crate", "self", "super"].contains(&path[0].as_str()) || below())
    }

    /// A path from the crate; `None` for other crates.
    fn absolute(&self, module: &Module, path: Vec<String>) -> Option<Vec<String>> {
        let mut at = match path[0].as_str() {
            "crate" => Module::new(),
            "self" | "super" => module.clone(),
            // A module below this one: `pub use pass::Pass`.
            name if self.0.contains_key(&[module.as_slice(), &[name.to_owned()]].concat()) => {
                return Some([module.clone(), path].concat());
            }
            _ => return None,
        };
        let rest = path.iter().skip_while(|name| ["crate", "self"].contains(&name.as_str()));
        for name in rest {
            if name == "super" { at.pop().map(drop)? } else { at.push(name.clone()) }
        }
        Some(at)
    }
}

impl File {
    fn import(&mut self, before: &[String], tree: &UseTree, given_on: bool) {
        let mut name = |name: &syn::Ident, path: Vec<String>| {
            if given_on {
                self.given_on.insert(name.to_string());
            }
            self.names.insert(name.to_string(), path);
        };
        match tree {
            UseTree::Path(path) => self.import(&[before, &[path.ident.to_string()]].concat(), &path.tree, given_on),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(before, tree, given_on)),
            UseTree::Glob(_) => self.globs.push(before.to_vec()),
            UseTree::Rename(rename) => name(&rename.rename, [before, &[rename.ident.to_string()]].concat()),
            UseTree::Name(last) if last.ident == "self" => {
                let module = before.last().expect("a module before self").clone();
                name(&syn::Ident::new(&module, last.ident.span()), before.to_vec());
            }
            UseTree::Name(last) => name(&last.ident, [before, &[last.ident.to_string()]].concat()),
        }
    }
}

impl<'ast> Visit<'ast> for File {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&[], &item.tree, !matches!(item.vis, Visibility::Inherited));
    }

    /// Tests within a file import that file, and what it imports.
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    /// What stands in a macro like arguments of a function.
    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        if let Ok(arguments) = call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated) {
            let mut inner = Self::default();
            arguments.iter().for_each(|argument| visit::visit_expr(&mut inner, argument));
            self.paths.extend(inner.paths);
        }
    }
}

/// Files that import each other in a circle: each is reached from each.
pub fn circles(edges: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&Module> = edges[from].iter().collect();
        while let Some(module) = pending.pop() {
            if reached.insert(module.clone()) {
                pending.extend(&edges[module]);
            }
        }
        reached
    };
    let all: BTreeMap<_, _> = edges.keys().map(|module| (module, reached(module))).collect();
    let circle = |module: &&Module| -> BTreeSet<Module> {
        all[*module].iter().filter(|other| all[*other].contains(*module)).cloned().collect()
    };
    edges.keys().filter(|module| all[*module].contains(*module)).map(|module| circle(&module)).collect()
}
