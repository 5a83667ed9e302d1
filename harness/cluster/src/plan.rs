//! Which nodes a cluster shall have: what was asked for, met with what there is, written down before it is made.

use shakedown_node::Role;

use crate::error::{ClusterError, Result};
use crate::host::HostSettings;
use crate::names;
use crate::state::{ClusterState, Phase, SCHEMA, Store};
use crate::up::UpOptions;

/// The state to reach, written down before anything is made of it.
///
/// # Errors
/// Wrong use: fewer nodes than there are, none at all, a cluster that is half removed.
pub fn plan(store: &Store, options: &UpOptions, kubernetes: &str) -> Result<(ClusterState, Vec<String>)> {
    let _host = store.lock_host()?;
    HostSettings::new(store).prepare()?;
    let known = store.load(&options.name)?;
    if known.as_ref().is_some_and(|k| k.phase == Phase::Removing) {
        return Err(ClusterError::Usage(format!(
            "cluster `{0}` is half removed\nhint: finish with `shakedown down --name {0}`",
            options.name
        )));
    }
    if known.is_none() {
        // What a removal that was cut off has left must not be taken for parts of the new one.
        crate::layer::remove(&store.directory(&options.name))?;
    }
    let state = match known {
        Some(state) => state,
        None => ClusterState {
            schema: SCHEMA,
            name: options.name.clone(),
            id: random_hex(16)?,
            subnet: free_subnet(store, &options.name)?,
            phase: Phase::Making,
            members: Vec::new(),
            kubernetes: kubernetes.to_owned(),
            token: format!("{}.{}", random_hex(3)?, random_hex(8)?),
        },
    };
    let (state, warnings) = grow(state, options)?;
    store.save(&state)?;
    Ok((state, warnings))
}

/// Adds the members that are missing. Those of a cluster that was complete once come late, and join it.
fn grow(mut state: ClusterState, options: &UpOptions) -> Result<(ClusterState, Vec<String>)> {
    let mut warnings = Vec::new();
    let first = state.members.is_empty();
    if state.members.is_empty() {
        state.members.push(names::member(Role::LoadBalancer, 1, state.subnet, false));
    }
    let late = state.phase == Phase::Formed;
    for (role, asked, default) in [(Role::ControlPlane, options.control_planes, 3), (Role::Worker, options.workers, 2)]
    {
        let have = state.with(role).count();
        let wanted = asked.unwrap_or(if first { default } else { have });
        if wanted > names::MOST || (role == Role::ControlPlane && wanted == 0) {
            return Err(ClusterError::Usage(format!(
                "{wanted} nodes of that kind cannot be\nhint: 1 to {} control planes, 0 to {0} workers",
                names::MOST
            )));
        }
        if wanted < have {
            return Err(ClusterError::Usage(format!(
                "cluster `{0}` has {have} nodes of that kind and {wanted} were asked for; nodes are not taken away\nhint: `shakedown down --name {0}` first",
                state.name
            )));
        }
        state.members.extend((have + 1..=wanted).map(|n| names::member(role, n, state.subnet, late)));
    }
    let control_planes = state.with(Role::ControlPlane).count();
    if control_planes.is_multiple_of(2) {
        warnings.push(format!(
            "{control_planes} control planes survive the loss of {} member, as {} would: an even number of etcd members adds no tolerance",
            (control_planes - 1) / 2,
            control_planes - 1
        ));
    }
    Ok((state, warnings))
}

fn free_subnet(store: &Store, name: &str) -> Result<u8> {
    let mut taken = Vec::new();
    for other in store.names() {
        taken.extend(store.load(&other).ok().flatten().map(|s| s.subnet));
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    names::subnet(name, |n| taken.contains(&n) || names::routed(&routes, n)).ok_or_else(|| {
        ClusterError::Usage("no network of 10.77.0.0/16 is free\nhint: a route of this host covers all of it".into())
    })
}

fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read;
    let mut buffer = vec![0; bytes];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut buffer))
        .map_err(|e| ClusterError::file("read", "/dev/urandom", e))?;
    Ok(buffer.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(control_planes: Option<usize>, workers: Option<usize>) -> UpOptions {
        UpOptions { name: "one".into(), control_planes, workers, lines: crate::progress::silent() }
    }

    fn counts(state: &ClusterState) -> (usize, usize) {
        (state.with(Role::ControlPlane).count(), state.with(Role::Worker).count())
    }

    fn empty() -> ClusterState {
        ClusterState {
            schema: SCHEMA,
            name: "one".into(),
            id: "00".into(),
            subnet: 9,
            phase: Phase::Making,
            members: Vec::new(),
            kubernetes: "v1.34.4".into(),
            token: "a.b".into(),
        }
    }

    #[test]
    fn a_new_cluster_has_three_and_two() {
        let (state, warnings) = grow(empty(), &asked(None, None)).unwrap();
        assert_eq!(counts(&state), (3, 2));
        assert!(warnings.is_empty());
    }

    #[test]
    fn one_and_none_stays_one_and_none() {
        let (state, _) = grow(empty(), &asked(Some(1), Some(0))).unwrap();
        assert_eq!(counts(&state), (1, 0));
        let (again, _) = grow(state, &asked(None, None)).unwrap();
        assert_eq!(counts(&again), (1, 0));
    }

    #[test]
    fn an_even_number_of_control_planes_warns() {
        let (_, warnings) = grow(empty(), &asked(Some(2), Some(0))).unwrap();
        assert!(warnings[0].contains("even"), "{warnings:?}");
    }

    #[test]
    fn a_formed_cluster_grows_by_late_members_and_never_shrinks() {
        let (mut state, _) = grow(empty(), &asked(Some(1), Some(1))).unwrap();
        state.phase = Phase::Formed;
        let (more, _) = grow(state.clone(), &asked(None, Some(3))).unwrap();
        assert_eq!(counts(&more), (1, 3));
        assert_eq!(more.members.iter().filter(|m| m.late).count(), 2);
        assert!(grow(state.clone(), &asked(None, Some(0))).is_err());
        assert!(grow(state, &asked(Some(99), None)).is_err());
    }

    #[test]
    fn no_control_plane_is_wrong_use() {
        assert!(grow(empty(), &asked(Some(0), Some(2))).unwrap_err().is_usage());
    }
}
