//! The order of Debian version numbers, and dependency relations (Debian Policy 5.6.12 and 7.1).

use std::cmp::Ordering;

/// Compares two versions the way `dpkg` does: epoch, upstream version, revision.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    epoch_a
        .cmp(&epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Stretches of non-digits and of digits, in turn; `~` sorts before everything, the end of the part included.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        loop {
            let left = a.first().copied().filter(|byte| !byte.is_ascii_digit());
            let right = b.first().copied().filter(|byte| !byte.is_ascii_digit());
            if left.is_none() && right.is_none() {
                break;
            }
            match weight(left).cmp(&weight(right)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (left, rest_a) = digits(a);
        let (right, rest_b) = digits(b);
        let by_number = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
        if by_number != Ordering::Equal {
            return by_number;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// Leading zeros do not count, so equal lengths compare as text.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeros = number.iter().position(|byte| *byte != b'0').unwrap_or(number.len());
    (&number[zeros..], rest)
}

fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

/// How a dependency limits the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub name: String,
    /// The operator and the version, when there are any.
    pub limit: Option<(String, String)>,
}

impl Relation {
    /// Parses `name[:arch] [(op version)] [[arch list]] [<profiles>]`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split(['[', '<']).next().filter(|_| !text.contains("(<")).unwrap_or(text);
        let (name, limit) = match text.split_once('(') {
            Some((name, rest)) => {
                let inside = rest.split(')').next()?.trim();
                let at = inside.find(|c: char| !"<>=".contains(c))?;
                (name, Some((inside[..at].to_string(), inside[at..].trim().to_string())))
            }
            None => (text, None),
        };
        let name = name.trim().split(':').next()?.trim();
        (!name.is_empty()).then(|| Self { name: name.to_string(), limit })
    }

    /// Whether a version is within the limit.
    pub fn admits(&self, version: &str) -> bool {
        let Some((operator, limit)) = &self.limit else { return true };
        let order = compare(version, limit);
        match operator.as_str() {
            "<<" => order == Ordering::Less,
            "<=" | "<" => order != Ordering::Greater,
            "=" => order == Ordering::Equal,
            ">=" | ">" => order != Ordering::Less,
            ">>" => order == Ordering::Greater,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_policy_are_in_order() {
        let in_order =
            ["~~", "~~a", "~", "", "1.0~beta1~svn1245", "1.0~beta1", "1.0", "1.0a", "1.0+b1", "1.0.1", "1:0"];
        for (at, a) in in_order.iter().enumerate() {
            for (other, b) in in_order.iter().enumerate() {
                assert_eq!(compare(a, b), at.cmp(&other), "{a:?} and {b:?}");
            }
        }
        assert_eq!(compare("1.2-3", "1.2-3~bpo1"), Ordering::Greater);
        assert_eq!(compare("2.36-9+deb12u9", "2.36-9+deb12u14"), Ordering::Less);
        assert_eq!(compare("1:1.0", "2.0"), Ordering::Greater);
        assert_eq!(compare("1.0-0", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.007", "1.7"), Ordering::Equal);
    }

    #[test]
    fn relations_are_read_with_all_their_decorations() {
        let relation = Relation::parse(" libc6:any (>= 2.34) [amd64] <!nocheck>").unwrap();
        assert_eq!(relation.name, "libc6");
        assert!(relation.admits("2.36-9") && !relation.admits("2.33"));
        assert!(Relation::parse("x (<< 2)").unwrap().admits("1.9"));
        assert!(!Relation::parse("x (<< 2)").unwrap().admits("2"));
        assert!(Relation::parse("y").unwrap().admits("anything"));
        assert!(Relation::parse("  ").is_none());
    }

    fn version() -> impl Strategy<Value = String> {
        "([0-2]:)?[0-9][0-9a-b.+~]{0,6}(-[0-9a-b+.~]{1,4})?"
    }

    proptest! {
        #[test]
        fn a_version_equals_itself_and_the_order_can_be_turned_round(a in version(), b in version()) {
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }

        #[test]
        fn the_order_is_transitive(a in version(), b in version(), c in version()) {
            let mut sorted = [a, b, c];
            sorted.sort_by(|x, y| compare(x, y));
            prop_assert_ne!(compare(&sorted[0], &sorted[2]), Ordering::Greater);
        }

        #[test]
        fn a_tilde_makes_it_earlier_and_a_higher_epoch_later(a in version()) {
            prop_assert_eq!(compare(&format!("{a}~"), &a), Ordering::Less);
            let bare = a.split_once(':').map_or(a.as_str(), |(_, rest)| rest);
            prop_assert_eq!(compare(&format!("7:{bare}"), &a), Ordering::Greater);
        }
    }
}
