//! The host's nftables tables, asked of the kernel: which there are, and taking away those that are ours.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::error::{NodeError, Result};

/// Start of the name of every table of ours.
pub const PREFIX: &str = "shakedown";

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const TABLE_NAME: u16 = 1;

/// A table: family as the kernel numbers it (2: ip, 10: ip6, 1: inet, 7: bridge, 5: netdev) and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Address family.
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// Every table of this network namespace whose name is ours. Empty where the kernel has no nftables.
///
/// # Errors
/// When the kernel refuses to list them.
pub fn ours() -> Result<Vec<Table>> {
    let Ok(socket) = open() else { return Ok(Vec::new()) };
    let failed = |source: Errno| NodeError::Link { action: "list the host's nftables tables".into(), source };
    let request = message(GET_TABLE, REQUEST | DUMP, 0, &header(0, 0));
    send(socket.as_raw_fd(), &request, MsgFlags::empty()).map_err(failed)?;
    let mut found = Vec::new();
    let mut buffer = vec![0_u8; 32 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(failed)?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                DONE | ERROR => return Ok(found),
                NEW_TABLE => found.extend(table(body).filter(|t| t.name.starts_with(PREFIX))),
                _ => {}
            }
        }
    }
}

/// Removes a table with all in it.
///
/// # Errors
/// When there is none, or the kernel refuses.
pub fn delete(table: &Table) -> Result<()> {
    change(DELETE_TABLE, 0, table)
}

/// Makes an empty table.
///
/// # Errors
/// When the kernel refuses.
pub fn add(table: &Table) -> Result<()> {
    change(NEW_TABLE, CREATE, table)
}

fn change(kind: u16, flags: u16, table: &Table) -> Result<()> {
    let failed =
        |source: Errno| NodeError::Link { action: format!("change the nftables table {}", table.name), source };
    let socket = open().map_err(failed)?;
    let mut body = header(table.family, 0);
    let mut name = table.name.clone().into_bytes();
    name.push(0);
    let length = u16::try_from(name.len() + 4).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&TABLE_NAME.to_ne_bytes());
    body.extend_from_slice(&name);
    body.resize(body.len().next_multiple_of(4), 0);
    // Changes are only taken in a transaction; its begin and end name the subsystem.
    let mut batch = message(BATCH_BEGIN, REQUEST, 1, &header(0, 10));
    batch.extend(message(kind, REQUEST | ACKNOWLEDGE | flags, 2, &body));
    batch.extend(message(BATCH_END, REQUEST, 3, &header(0, 10)));
    send(socket.as_raw_fd(), &batch, MsgFlags::empty()).map_err(failed)?;
    let mut buffer = vec![0_u8; 8 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(failed)?;
        for (kind, body) in messages(&buffer[..length]) {
            if kind == ERROR && body.len() >= 4 {
                let code = i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
                return if code == 0 { Ok(()) } else { Err(failed(Errno::from_raw(-code))) };
            }
        }
    }
}

fn open() -> std::result::Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

/// `struct nfgenmsg`; the resource id is in network order.
fn header(family: u8, resource: u16) -> Vec<u8> {
    let id = resource.to_be_bytes();
    vec![family, 0, id[0], id[1]]
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

/// The messages of a datagram: (type, what follows the header).
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let length = (u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize).clamp(16, bytes.len());
        found.push((u16::from_ne_bytes([bytes[4], bytes[5]]), &bytes[16..length]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn table(body: &[u8]) -> Option<Table> {
    let family = *body.first()?;
    let mut attributes = body.get(4..)?;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]])).clamp(4, attributes.len());
        if u16::from_ne_bytes([attributes[2], attributes[3]]) & 0x3fff == TABLE_NAME {
            let name = attributes[4..length].split(|b| *b == 0).next().unwrap_or_default();
            return Some(Table { family, name: String::from_utf8_lossy(name).into_owned() });
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_understood() {
        let mut body = header(1, 0);
        body.extend_from_slice(&[10, 0, 1, 0]);
        body.extend_from_slice(b"shake\0\0\0");
        let mut bytes = message(NEW_TABLE, 0, 0, &body);
        bytes.extend(message(DONE, 0, 0, &[0; 4]));
        let seen = messages(&bytes);
        assert_eq!(seen.len(), 2);
        assert_eq!(table(seen[0].1), Some(Table { family: 1, name: "shake".into() }));
        assert_eq!(table(&[1]), None);
    }
}
