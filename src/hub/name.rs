//! `ORGANISATION/NAME`, perhaps with the GGUF file that is meant, of several any, and a revision:
//! `org/name/file.gguf@v1`.

/// The branch that counts where none is named.
const MAIN: &str = "main";

/// A model on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `ORGANISATION/NAME`.
    repository: String,
    file: Option<String>,
    revision: String,
}

impl Name {
    /// What a text names; `None` if it can be no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let mut parts = path.split('/');
        let (organisation, name) = (parts.next()?, parts.next()?);
        let rest: Vec<&str> = parts.collect();
        let file = (!rest.is_empty()).then(|| rest.join("/"));
        let fits = |part: &str| {
            let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            plain
                && (1..=96).contains(&part.len())
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
        };
        let whole = file.as_ref().is_none_or(|file| file.ends_with(".gguf") && is_plain(file));
        let named = fits(organisation) && fits(name) && whole && is_plain(revision);
        named.then(|| Self { repository: format!("{organisation}/{name}"), file, revision: revision.to_owned() })
    }

    /// The name of the model that an address on the Hub leads to, as it is given here.
    pub fn in_address(text: &str) -> Option<String> {
        let starts =
            ["hf://", "https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "huggingface.co/"];
        let rest = starts.iter().find_map(|start| text.strip_prefix(start))?;
        let mut parts = rest.split(['?', '#']).next()?.trim_end_matches('/').splitn(3, '/');
        let name = format!("{}/{}", parts.next()?, parts.next()?);
        let named = match parts.next().and_then(|rest| rest.split_once('/')) {
            // What follows is a revision, and perhaps a file of it.
            Some(("tree" | "blob" | "resolve", rest)) => {
                let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
                let file = if file.ends_with(".gguf") { format!("/{file}") } else { String::new() };
                if revision == MAIN { format!("{name}{file}") } else { format!("{name}{file}@{revision}") }
            }
            _ => name,
        };
        Self::parse(&named).map(|_| named)
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The file of it that is the model, or one of those that are.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_commit(&self) -> bool {
        is_hash(&self.revision, 40)
    }
}

/// Whether a text is a hash of this many hexadecimal digits.
pub fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a path leads nowhere but below where it begins, on every system.
pub fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty()
                && part.chars().any(|c| c != '.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+ ".contains(c))
        })
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn addresses_lead_to_names() {
        for (address, name) in [
            ("https://huggingface.co/org/name", Some("org/name")),
            ("https://huggingface.co/org/name/", Some("org/name")),
            ("https://huggingface.co/org/name/tree/main", Some("org/name")),
            ("https://huggingface.co/org/name/tree/v1", Some("org/name@v1")),
            ("https://huggingface.co/org/name/blob/main/q/x.gguf?download=true", Some("org/name/q/x.gguf")),
            ("https://huggingface.co/org/name/resolve/v1/x.gguf", Some("org/name/x.gguf@v1")),
            ("https://huggingface.co/org/name/blob/main/config.json", Some("org/name")),
            ("https://huggingface.co/org/name/discussions/2", Some("org/name")),
            ("hf://org/name", Some("org/name")),
            ("https://huggingface.co/", None),
            ("https://huggingface.co/org", None),
            ("https://huggingface.co/../name", None),
            ("https://example.org/org/name", None),
        ] {
            assert_eq!(Name::in_address(address).as_deref(), name, "{address}");
        }
    }

    #[test]
    fn names_are_told_from_paths() {
        let whole = Name::parse("a-b/C.d_1@refs/pr/2").map(|name| (name.repository, name.file, name.revision));
        assert_eq!(whole, Some(("a-b/C.d_1".into(), None, "refs/pr/2".into())));
        let file = Name::parse("a/b/q/x.Q4_K.gguf").map(|name| (name.repository, name.file, name.revision));
        assert_eq!(file, Some(("a/b".into(), Some("q/x.Q4_K.gguf".into()), "main".into())));
        for text in [
            "",
            "name",
            "/a/b",
            "a/",
            "./a",
            "../a",
            "a/../b",
            "a/b/",
            "a/b/c",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b/../x.gguf",
            "a--b/c",
            "-a/b",
            "a/b.",
            "a b/c",
            "C:\\a/b",
            "a/b\\c",
            "https://huggingface.co/a/b",
            "a/b/x.gguf@/y",
            "ä/b",
        ] {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
    }
}
