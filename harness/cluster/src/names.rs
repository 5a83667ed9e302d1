//! Names and numbers that follow from a cluster's name: links, addresses, nodes. Several clusters never collide.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use shakedown_node::Role;
use shakedown_node::net::Fabric;

use crate::error::{ClusterError, Result};
use crate::state::Member;

/// Start of the name of every link of ours on the host; eight hexadecimal digits follow.
pub const LINK_PREFIX: &str = "shk";
/// Where pinned network namespaces are.
pub const PINS: &str = "/run/shakedown";
/// Prefix length of a cluster's network.
pub const PREFIX: u8 = 24;
/// Most control planes and most workers of one cluster; their addresses are fixed by it.
pub const MOST: usize = 80;

/// Checks a cluster's name.
///
/// # Errors
/// [`ClusterError::BadName`] says what is wrong with it.
pub fn check(name: &str) -> Result<()> {
    let bad = |why| Err(ClusterError::BadName { name: name.to_owned(), why });
    if name.len() > 32 {
        return bad("it is too long");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return bad("it does not begin with a letter");
    }
    if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') || name.ends_with('-') {
        return bad("it has a character that names of machines do not have");
    }
    Ok(())
}

fn digest(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

/// Name of a cluster's link on the host.
#[must_use]
pub fn host_link(cluster: &str) -> String {
    let hex: String = digest(cluster).iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("{LINK_PREFIX}{hex}")
}

/// Is that one of our links on the host?
#[must_use]
pub fn is_host_link(link: &str) -> bool {
    link.strip_prefix(LINK_PREFIX).is_some_and(|d| d.len() == 8 && d.chars().all(|c| c.is_ascii_hexdigit()))
}

/// An address of a cluster's network.
#[must_use]
pub fn address(subnet: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, subnet, host)
}

/// The first free subnet, beginning where the name's hash says, so that a cluster usually gets the same one again.
#[must_use]
pub fn subnet(cluster: &str, taken: impl Fn(u8) -> bool) -> Option<u8> {
    let start = digest(cluster).first().copied().unwrap_or(0);
    (0..=u8::MAX).map(|step| start.wrapping_add(step)).find(|candidate| !taken(*candidate))
}

/// Does a route of the host (`/proc/net/route`) cover any of 10.77.N.0/24? The default route does not count.
#[must_use]
pub fn routed(routes: &str, candidate: u8) -> bool {
    let wanted = u32::from(address(candidate, 0));
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let number = |text: Option<&str>| text.and_then(|t| u32::from_str_radix(t, 16).ok()).map(u32::swap_bytes);
        let (Some(destination), Some(mask)) = (number(fields.next()), number(fields.nth(5))) else { return false };
        let common = mask & (u32::MAX << (32 - PREFIX));
        mask != 0 && destination & common == wanted & common
    })
}

/// The fabric of a cluster.
#[must_use]
pub fn fabric(cluster: &str, subnet: u8) -> Fabric {
    Fabric {
        pin: PathBuf::from(PINS).join(cluster).join("fabric"),
        bridge: "br0".to_owned(),
        host_link: host_link(cluster),
        host_address: address(subnet, 1),
        bridge_address: address(subnet, 254),
        prefix: PREFIX,
    }
}

/// A member by its role and number, which counts from 1.
#[must_use]
pub fn member(role: Role, number: usize, subnet: u8, late: bool) -> Member {
    let small = u8::try_from(number.min(MOST)).unwrap_or(u8::MAX);
    let (name, host) = match role {
        Role::LoadBalancer => ("lb".to_owned(), 2),
        Role::ControlPlane => (format!("cp-{number}"), 10 + small),
        Role::Worker => (format!("worker-{number}"), 100 + small),
    };
    Member { name, role, address: address(subnet, host), late }
}

/// A member's hardware address: locally administered, the same at every boot.
#[must_use]
pub fn mac(cluster: &str, node: &str) -> [u8; 6] {
    let digest = digest(&format!("{cluster}/{node}"));
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (to, from) in mac.iter_mut().skip(1).zip(digest) {
        *to = from;
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["default", "a", "two-clusters-9"] {
            check(good).unwrap();
        }
        for bad in ["", "-a", "9a", "A", "a/b", "..", "a_b", "a-", "this-name-is-much-too-long-for-a-cluster"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn link_names_fit_the_kernel_and_are_known_again() {
        let link = host_link("default");
        assert!(link.len() <= 15 && is_host_link(&link));
        assert!(!is_host_link("shk0") && !is_host_link("eth0") && !is_host_link("shkzzzzzzzz"));
        assert_ne!(host_link("default"), host_link("other"));
    }

    #[test]
    fn subnets_avoid_each_other_and_the_hosts_routes() {
        let first = subnet("default", |_| false).unwrap();
        let second = subnet("default", |n| n == first).unwrap();
        assert_eq!(second, first.wrapping_add(1));
        assert_eq!(subnet("default", |_| true), None);
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let default = format!("{head}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        assert!(!routed(&default, 5));
        let ten = format!("{head}tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n");
        assert!(routed(&ten, 5));
        let one = format!("{head}x\t00054D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
        assert!(routed(&one, 5) && !routed(&one, 6));
    }

    #[test]
    fn members_do_not_collide() {
        let mut all: Vec<_> = (1..=MOST)
            .flat_map(|n| [member(Role::ControlPlane, n, 3, false), member(Role::Worker, n, 3, false)])
            .map(|m| m.address)
            .collect();
        all.push(member(Role::LoadBalancer, 1, 3, false).address);
        all.push(fabric("x", 3).host_address);
        all.push(fabric("x", 3).bridge_address);
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_ne!(mac("a", "cp-1"), mac("b", "cp-1"));
        assert_eq!(mac("a", "cp-1")[0] & 3, 2);
    }
}
