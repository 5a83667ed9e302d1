//! The journal after kills at any byte, full disks, strangers and damage.

use proptest::prelude::*;
use shakedown_core::UndoStep;

use super::*;

fn intent(id: &str) -> JournalEntry {
    JournalEntry::Intent {
        id: id.to_owned(),
        run: "r".into(),
        owner: "check/control".into(),
        kind: None,
        undo: vec![UndoStep::RemoveFile { node: "cp-1".into(), path: format!("/tmp/{id}") }],
    }
}

fn closed(id: &str) -> JournalEntry {
    JournalEntry::Closed { id: id.to_owned() }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.jsonl");
    (directory, path)
}

#[test]
fn what_is_open_survives_the_process_and_what_is_closed_does_not() {
    let (_directory, path) = place();
    let journal = FileJournal::open(&path, "one", "id").unwrap();
    for entry in [intent("a"), intent("b"), closed("a"), intent("c")] {
        journal.append(&entry).unwrap();
    }
    assert_eq!(journal.open_entries().unwrap(), [intent("b"), intent("c")]);
    drop(journal);
    let journal = FileJournal::open(&path, "one", "id").unwrap();
    assert_eq!(journal.open_entries().unwrap(), [intent("b"), intent("c")]);
    assert!(!fs::read_to_string(&path).unwrap().contains("\"a\""), "opening compacts");
    journal.append(&closed("b")).unwrap();
    journal.append(&closed("c")).unwrap();
    journal.compact().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    journal.append(&intent("d")).unwrap();
    assert_eq!(journal.open_entries().unwrap(), [intent("d")]);
}

#[test]
fn only_root_reads_it_even_where_it_was_opened_wide_before() {
    let (_directory, path) = place();
    drop(FileJournal::open(&path, "one", "id").unwrap());
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    drop(FileJournal::open(&path, "one", "id").unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn strangers_and_damage_are_told_and_nothing_is_lost() {
    let (_directory, path) = place();
    FileJournal::open(&path, "one", "id").unwrap().append(&intent("a")).unwrap();
    let before = fs::read(&path).unwrap();
    let error = FileJournal::open(&path, "one", "another making").unwrap_err();
    assert!(matches!(error, JournalFault::Foreign { .. }) && error.to_string().contains("hint:"), "{error}");
    assert!(matches!(FileJournal::open(&path, "two", "id").unwrap_err(), JournalFault::Foreign { .. }));
    assert_eq!(fs::read(&path).unwrap(), before);
    let mut damaged = before.clone();
    damaged.extend_from_slice(b"not json\n{\"entry\":\"closed\",\"id\":\"a\"}\n");
    fs::write(&path, &damaged).unwrap();
    let error = FileJournal::open(&path, "one", "id").unwrap_err();
    assert!(matches!(error, JournalFault::Corrupt { line: 3, .. }), "{error}");
    fs::write(&path, "{\"journal\":7,\"cluster\":\"one\",\"id\":\"id\"}\n").unwrap();
    assert!(FileJournal::open(&path, "one", "id").unwrap_err().to_string().contains("version 7"));
    fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
    assert!(matches!(FileJournal::open(&path, "one", "id").unwrap_err(), JournalFault::Corrupt { .. }));
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_a_hint() {
    let (directory, _) = place();
    let error = FileJournal::open(&directory.path().join("none/journal.jsonl"), "one", "id").unwrap_err();
    assert!(error.to_string().contains("cannot write journal") && error.to_string().contains("hint:"));
}

#[test]
fn a_full_disk_takes_half_a_line_back() {
    // /dev/full says "no space left" to every write, as a full disk does.
    let (_directory, path) = place();
    let journal = FileJournal::open(&path, "one", "id").unwrap();
    journal.append(&intent("a")).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let real = std::mem::replace(&mut journal.state.lock().unwrap().file, full);
    let error = journal.append(&intent("b")).unwrap_err();
    assert!(error.to_string().contains("cannot append to journal"), "{error}");
    let mut state = journal.state.lock().unwrap();
    state.file = real;
    state.broken = false;
    drop(state);
    journal.append(&intent("c")).unwrap();
    assert_eq!(journal.open_entries().unwrap(), [intent("a"), intent("c")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Cut at any byte, the journal opens again with what was acknowledged up to there.
    #[test]
    fn a_kill_at_any_byte_loses_nothing_that_was_acknowledged(
        script in proptest::collection::vec((0..6_u8, any::<bool>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_directory, path) = place();
        let journal = FileJournal::open(&path, "one", "id").unwrap();
        let mut acknowledged: Vec<(u64, JournalEntry)> = Vec::new();
        for (id, close) in script {
            let entry = if close { closed(&id.to_string()) } else { intent(&id.to_string()) };
            journal.append(&entry).unwrap();
            acknowledged.push((fs::metadata(&path).unwrap().len(), entry));
        }
        drop(journal);
        let bytes = fs::read(&path).unwrap();
        let cut = cut.index(bytes.len() + 1);
        fs::write(&path, &bytes[..cut]).unwrap();
        let kept: Vec<JournalEntry> =
            acknowledged.into_iter().filter(|(end, _)| *end <= cut as u64).map(|(_, entry)| entry).collect();
        let journal = FileJournal::open(&path, "one", "id").unwrap();
        prop_assert_eq!(journal.open_entries().unwrap(), open_intents(&kept));
        journal.append(&intent("new")).unwrap();
        prop_assert!(journal.open_entries().unwrap().contains(&intent("new")));
    }
}
