//! Editing the static manifest of the kube-apiserver: arguments, mounts and hostPath volumes are added, and every
//! other byte stays as kubeadm wrote it.
//!
//! The text is edited by lines, the result is parsed again and compared with the same edit made on the parsed
//! document: a manifest whose layout is not understood is refused and never written.

use serde_yaml_ng::{Mapping, Value};
use thiserror::Error;

/// Every kube-apiserver of kubeadm has this argument; new ones are put behind it (ENC-042, ENC-049).
const ANCHOR: &str = "--tls-private-key-file";

/// What a hostPath volume has to find on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// A file: the Pod does not start without it.
    File,
    /// A directory, made where it is missing.
    DirectoryOrCreate,
}

impl HostPathKind {
    const fn name(self) -> &'static str {
        match self {
            HostPathKind::File => "File",
            HostPathKind::DirectoryOrCreate => "DirectoryOrCreate",
        }
    }
}

/// A path of the node that the container sees at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// Name of the volume and of its mount.
    pub name: String,
    /// Path on the node and in the container.
    pub path: String,
    /// What it is.
    pub kind: HostPathKind,
    /// Mounted read-only.
    pub read_only: bool,
}

/// What is to be in the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions {
    /// `--flag=value`; a flag that is there with another value gets this one.
    pub args: Vec<String>,
    /// Mounts with their volumes.
    pub paths: Vec<HostPath>,
}

/// The manifest could not be edited. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// No YAML, or not a Pod.
    #[error("the manifest is no Pod in YAML: {0}\nhint: restore it with `kubeadm init phase control-plane apiserver`")]
    NotAPod(String),
    /// The text is not laid out as kubeadm does.
    #[error("the manifest has no single `{0}:` list of its own lines\nhint: write it as kubeadm does, one item a line")]
    Layout(String),
    /// The edited text does not say what was meant.
    #[error("the edited manifest would not mean what was asked for: {0}")]
    Mismatch(String),
}

impl Additions {
    /// The manifest's text with these additions; the same text where all of them are there.
    ///
    /// # Errors
    /// [`EditError`]; then nothing may be written.
    pub fn apply(&self, text: &str) -> Result<String, EditError> {
        let wanted = self.edited(&parse(text)?)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // Each goes right behind the anchor, so the last one goes first.
        for arg in self.args.iter().rev() {
            put_arg(&mut lines, arg)?;
        }
        for path in &self.paths {
            put_block(&mut lines, "volumeMounts", path, mount_lines)?;
            put_block(&mut lines, "volumes", path, volume_lines)?;
        }
        let mut edited = lines.join("\n");
        if text.ends_with('\n') {
            edited.push('\n');
        }
        let got = parse(&edited)?;
        if got == wanted { Ok(edited) } else { Err(EditError::Mismatch(difference(&wanted, &got))) }
    }

    /// Whether the manifest has all of it already.
    ///
    /// # Errors
    /// The text is no Pod.
    pub fn are_in(&self, text: &str) -> Result<bool, EditError> {
        let document = parse(text)?;
        Ok(self.edited(&document)? == document)
    }

    /// The manifest's text without these additions.
    ///
    /// # Errors
    /// [`EditError`]; then nothing may be written.
    pub fn remove(&self, text: &str) -> Result<String, EditError> {
        parse(text)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for arg in &self.args {
            let (_, items) = list(&lines, "command")?;
            let flag = flag_of(arg);
            let gone: Vec<usize> =
                items.iter().filter(|i| flag_of(item_text(&lines[i.start])) == flag).map(|i| i.start).collect();
            for at in gone.into_iter().rev() {
                lines.remove(at);
            }
        }
        for path in &self.paths {
            for key in ["volumeMounts", "volumes"] {
                let (_, items) = list(&lines, key)?;
                if let Some(item) = items.into_iter().find(|i| names(&lines[i.start..i.end], &path.name)) {
                    lines.drain(item.start..item.end);
                }
            }
        }
        let mut edited = lines.join("\n");
        if text.ends_with('\n') {
            edited.push('\n');
        }
        parse(&edited)?;
        Ok(edited)
    }

    /// The same edit on the parsed document: what the text has to mean afterwards.
    fn edited(&self, document: &Value) -> Result<Value, EditError> {
        let mut document = document.clone();
        let spec = document.get_mut("spec").ok_or_else(|| EditError::NotAPod("no spec".into()))?;
        for path in &self.paths {
            put_named(sequence(spec, "volumes")?, volume_value(path));
        }
        let container = spec
            .get_mut("containers")
            .and_then(|c| c.get_mut(0))
            .ok_or_else(|| EditError::NotAPod("no container".into()))?;
        for path in &self.paths {
            put_named(sequence(container, "volumeMounts")?, mount_value(path));
        }
        let command = sequence(container, "command")?;
        for arg in self.args.iter().rev() {
            let same = |v: &Value, flag: &str| v.as_str().is_some_and(|s| flag_of(s) == flag);
            let value = Value::String(arg.clone());
            if let Some(old) = command.iter_mut().find(|v| same(v, flag_of(arg))) {
                *old = value;
            } else {
                let at = command.iter().position(|v| same(v, ANCHOR)).map_or(command.len(), |p| p + 1);
                command.insert(at, value);
            }
        }
        Ok(document)
    }
}

fn parse(text: &str) -> Result<Value, EditError> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|e| EditError::NotAPod(e.to_string()))?;
    if value.get("kind").and_then(Value::as_str) == Some("Pod") {
        Ok(value)
    } else {
        Err(EditError::NotAPod("kind is not Pod".into()))
    }
}

fn sequence<'a>(parent: &'a mut Value, key: &str) -> Result<&'a mut Vec<Value>, EditError> {
    parent.get_mut(key).and_then(Value::as_sequence_mut).ok_or_else(|| EditError::Layout(key.to_owned()))
}

fn put_named(list: &mut Vec<Value>, value: Value) {
    let name = value.get("name").cloned();
    match list.iter_mut().find(|v| v.get("name") == name.as_ref()) {
        Some(old) => *old = value,
        None => list.push(value),
    }
}

fn mount_value(path: &HostPath) -> Value {
    let mut map = Mapping::new();
    map.insert("mountPath".into(), path.path.clone().into());
    map.insert("name".into(), path.name.clone().into());
    if path.read_only {
        map.insert("readOnly".into(), true.into());
    }
    Value::Mapping(map)
}

fn volume_value(path: &HostPath) -> Value {
    let mut host = Mapping::new();
    host.insert("path".into(), path.path.clone().into());
    host.insert("type".into(), path.kind.name().into());
    let mut map = Mapping::new();
    map.insert("hostPath".into(), Value::Mapping(host));
    map.insert("name".into(), path.name.clone().into());
    Value::Mapping(map)
}

fn mount_lines(path: &HostPath) -> Vec<String> {
    let mut lines = vec![format!("- mountPath: {}", path.path), format!("  name: {}", path.name)];
    if path.read_only {
        lines.push("  readOnly: true".into());
    }
    lines
}

fn volume_lines(path: &HostPath) -> Vec<String> {
    vec![
        "- hostPath:".into(),
        format!("    path: {}", path.path),
        format!("    type: {}", path.kind.name()),
        format!("  name: {}", path.name),
    ]
}

/// Lines of one item of a list.
struct Item {
    start: usize,
    end: usize,
}

/// The indentation and the items of the only list under `key`.
fn list(lines: &[String], key: &str) -> Result<(usize, Vec<Item>), EditError> {
    let layout = || EditError::Layout(key.to_owned());
    let head = |line: &str| line.trim_start().trim_start_matches("- ").trim_end() == format!("{key}:");
    let mut heads = lines.iter().enumerate().filter(|(_, l)| head(l)).map(|(i, _)| i);
    let (at, None) = (heads.next().ok_or_else(layout)?, heads.next()) else { return Err(layout()) };
    let first = lines.get(at + 1).ok_or_else(layout)?;
    let indent = indent_of(first);
    let dash = format!("{}- ", " ".repeat(indent));
    let mut items: Vec<Item> = Vec::new();
    for (i, line) in lines.iter().enumerate().skip(at + 1) {
        if line.starts_with(&dash) {
            items.push(Item { start: i, end: i + 1 });
        } else if indent_of(line) > indent && !line.trim().is_empty() {
            items.last_mut().ok_or_else(layout)?.end = i + 1;
        } else {
            break;
        }
    }
    if items.is_empty() { Err(layout()) } else { Ok((indent, items)) }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn item_text(line: &str) -> &str {
    line.trim_start().trim_start_matches("- ").trim()
}

fn flag_of(arg: &str) -> &str {
    arg.split_once('=').map_or(arg, |(flag, _)| flag)
}

fn names(item: &[String], name: &str) -> bool {
    item.iter().any(|l| item_text(l) == format!("name: {name}"))
}

fn put_arg(lines: &mut Vec<String>, arg: &str) -> Result<(), EditError> {
    let (indent, items) = list(lines, "command")?;
    let line = format!("{}- {arg}", " ".repeat(indent));
    let find = |flag: &str| items.iter().find(|i| flag_of(item_text(&lines[i.start])) == flag);
    if let Some(item) = find(flag_of(arg)) {
        let at = item.start;
        lines[at] = line;
    } else {
        let at = find(ANCHOR).or(items.last()).map_or(lines.len(), |i| i.end);
        lines.insert(at, line);
    }
    Ok(())
}

fn put_block(
    lines: &mut Vec<String>,
    key: &str,
    path: &HostPath,
    block: fn(&HostPath) -> Vec<String>,
) -> Result<(), EditError> {
    let (indent, items) = list(lines, key)?;
    let new: Vec<String> = block(path).into_iter().map(|l| format!("{}{l}", " ".repeat(indent))).collect();
    let range = match items.iter().find(|i| names(&lines[i.start..i.end], &path.name)) {
        Some(item) => item.start..item.end,
        None => {
            let end = items.last().map_or(lines.len(), |i| i.end);
            end..end
        }
    };
    lines.splice(range, new);
    Ok(())
}

fn difference(wanted: &Value, got: &Value) -> String {
    let text = |v: &Value| serde_yaml_ng::to_string(v).unwrap_or_default();
    let (wanted, got) = (text(wanted), text(got));
    let differing = wanted.lines().zip(got.lines()).find(|(a, b)| a != b);
    differing.map_or_else(|| "one has more lines".into(), |(a, b)| format!("`{}` became `{}`", a.trim(), b.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As kubeadm lays it out, shortened; written by hand.
    const MANIFEST: &str = include_str!("../tests/kube-apiserver.yaml");

    fn additions() -> Additions {
        Additions {
            args: vec![
                "--encryption-provider-config=/etc/kubernetes/encryption-config.yaml".into(),
                "--audit-log-maxage=30".into(),
            ],
            paths: vec![
                HostPath {
                    name: "encryption-config".into(),
                    path: "/etc/kubernetes/encryption-config.yaml".into(),
                    kind: HostPathKind::File,
                    read_only: true,
                },
                HostPath {
                    name: "audit-log".into(),
                    path: "/var/log/kubernetes".into(),
                    kind: HostPathKind::DirectoryOrCreate,
                    read_only: false,
                },
            ],
        }
    }

    #[test]
    fn the_edited_manifest_reads_as_documented() {
        insta::assert_snapshot!(additions().apply(MANIFEST).unwrap());
    }

    #[test]
    fn only_lines_are_added() {
        let edited = additions().apply(MANIFEST).unwrap();
        let mut rest = edited.lines();
        for line in MANIFEST.lines() {
            assert!(rest.any(|l| l == line), "line lost or moved: {line}");
        }
    }

    #[test]
    fn a_flag_with_another_value_gets_the_new_one_in_its_place() {
        let other = Additions { args: vec!["--secure-port=7443".into()], paths: vec![] };
        let edited = other.apply(MANIFEST).unwrap();
        assert_eq!(edited.replace("--secure-port=7443", "--secure-port=6443"), MANIFEST);
        assert!(!other.are_in(MANIFEST).unwrap());
        assert!(other.are_in(&edited).unwrap());
    }

    #[test]
    fn a_layout_that_is_not_understood_is_refused() {
        let flow = MANIFEST.replace("    volumeMounts:\n", "    volumeMounts: []\n    other:\n");
        assert!(matches!(additions().apply(&flow), Err(EditError::Layout(_))));
        assert!(matches!(additions().apply("kind: [Pod"), Err(EditError::NotAPod(_))));
        assert!(matches!(additions().apply("kind: List\n"), Err(EditError::NotAPod(_))));
    }

    fn any_additions() -> impl Strategy<Value = Additions> {
        let arg = ("[a-z]{3,8}", "[a-z0-9/.]{1,12}").prop_map(|(f, v)| format!("--x-{f}=/{v}"));
        let path = ("[a-z]{3,8}", any::<bool>(), any::<bool>()).prop_map(|(name, file, read_only)| HostPath {
            path: format!("/etc/x/{name}"),
            name: format!("x-{name}"),
            kind: if file { HostPathKind::File } else { HostPathKind::DirectoryOrCreate },
            read_only,
        });
        (proptest::collection::vec(arg, 0..4), proptest::collection::vec(path, 0..4))
            .prop_map(|(args, paths)| Additions { args, paths })
    }

    proptest! {
        #[test]
        fn twice_is_once_and_removal_is_the_way_back(additions in any_additions()) {
            let once = additions.apply(MANIFEST).unwrap();
            prop_assert_eq!(&additions.apply(&once).unwrap(), &once);
            prop_assert!(additions.are_in(&once).unwrap());
            prop_assert_eq!(additions.remove(&once).unwrap(), MANIFEST);
        }
    }
}
