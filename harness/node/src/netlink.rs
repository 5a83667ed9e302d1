//! The few routing-socket messages that building a network takes: links, addresses, routes, queueing disciplines.
//!
//! A host need not have `ip`. Names and numbers are those of rtnetlink(7). A socket belongs to the network namespace
//! that its thread is in when it is opened.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::error::{NodeError, Result};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWQDISC: u16 = 36;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const IFF_UP: u32 = 1;
const TCA_KIND: u16 = 1;

/// One message under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        Self { bytes }
    }

    /// `struct ifinfomsg`.
    fn link_header(&mut self, index: u32, flags: u32, change: u32) -> &mut Self {
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&index.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&change.to_ne_bytes());
        self
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // An attribute's length field counts its header but not its padding.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }

    fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind | NLA_F_NESTED, &inner.bytes)
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// An open routing socket of one network namespace.
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens one in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> Result<Self> {
        let failed = |source: Errno| NodeError::Link { action: "open the routing socket".into(), source };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket: fd })
    }

    fn ask(&self, message: Message) -> std::result::Result<(), Errno> {
        let bytes = message.finish();
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = vec![0_u8; 8192];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(code) = acknowledged(&answer[..length]) {
                return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
            }
        }
    }

    fn index(name: &str) -> Result<u32> {
        nix::net::if_::if_nametoindex(name)
            .map_err(|source| NodeError::Link { action: format!("find the link {name}"), source })
    }

    /// Adds a link of a kind that needs no parameters (`bridge`, `dummy`, `wireguard`, `ifb`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the kernel knows no such kind, `EEXIST` when the name is taken.
    pub fn add_link(&self, kind: &str, name: &str) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.link_header(0, 0, 0).text(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind);
        });
        self.ask(message).map_err(|source| NodeError::Link { action: format!("add the {kind} link {name}"), source })
    }

    /// Adds a pair of connected links; the peer may be born in another namespace.
    ///
    /// # Errors
    /// As [`Netlink::add_link`].
    pub fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_namespace: Option<RawFd>,
        peer_mac: Option<[u8; 6]>,
    ) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.link_header(0, 0, 0).text(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |other| {
                    other.link_header(0, 0, 0).text(IFLA_IFNAME, peer);
                    if let Some(mac) = peer_mac {
                        other.attribute(IFLA_ADDRESS, &mac);
                    }
                    if let Some(fd) = peer_namespace {
                        other.attribute(IFLA_NET_NS_FD, &fd.cast_unsigned().to_ne_bytes());
                    }
                });
            });
        });
        self.ask(message)
            .map_err(|source| NodeError::Link { action: format!("add the veth pair {name}, {peer}"), source })
    }

    /// Sets a link up, gives it a bridge as master, another size of packet.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_up(&self, name: &str, master: Option<&str>, mtu: Option<u32>) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.link_header(Self::index(name)?, IFF_UP, IFF_UP);
        if let Some(master) = master {
            message.attribute(IFLA_MASTER, &Self::index(master)?.to_ne_bytes());
        }
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.ask(message).map_err(|source| NodeError::Link { action: format!("set the link {name} up"), source })
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_down(&self, name: &str) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.link_header(Self::index(name)?, 0, IFF_UP);
        self.ask(message).map_err(|source| NodeError::Link { action: format!("set the link {name} down"), source })
    }

    /// Removes a link (of a pair, both ends). False when there was none.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn delete_link(&self, name: &str) -> Result<bool> {
        let Ok(index) = Self::index(name) else { return Ok(false) };
        let mut message = Message::new(RTM_DELLINK, 0);
        message.link_header(index, 0, 0);
        match self.ask(message) {
            Ok(()) => Ok(true),
            Err(Errno::ENODEV) => Ok(false),
            Err(source) => Err(NodeError::Link { action: format!("delete the link {name}"), source }),
        }
    }

    /// Gives a link an IPv4 address. Having it already is fine.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn add_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
        message
            .raw(&[nix::libc::AF_INET as u8, prefix, 0, 0])
            .raw(&Self::index(name)?.to_ne_bytes())
            .attribute(2, &address.octets())
            .attribute(1, &address.octets())
            .attribute(4, &broadcast.to_be_bytes());
        self.ask(message)
            .map_err(|source| NodeError::Link { action: format!("give {name} the address {address}/{prefix}"), source })
    }

    /// Adds a route to `destination` over `gateway`, in the main table.
    ///
    /// # Errors
    /// When the gateway cannot be reached.
    pub fn add_route(&self, destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<()> {
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const TYPE_UNICAST: u8 = 1;
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
        message
            .raw(&[nix::libc::AF_INET as u8, prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, TYPE_UNICAST])
            .raw(&[0; 4])
            .attribute(1, &destination.octets())
            .attribute(5, &gateway.octets());
        self.ask(message).map_err(|source| NodeError::Link {
            action: format!("route {destination}/{prefix} over {gateway}"),
            source,
        })
    }

    /// Puts a queueing discipline without parameters at a link's root: tells whether the kernel has that kind.
    ///
    /// # Errors
    /// `ENOENT` when the kernel knows no such kind; `EINVAL` when it does but wants parameters.
    pub fn add_root_qdisc(&self, link: &str, kind: &str) -> Result<()> {
        const ROOT: u32 = 0xFFFF_FFFF;
        let mut message = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
        message
            .raw(&[0; 4])
            .raw(&Self::index(link)?.to_ne_bytes())
            .raw(&[0; 4])
            .raw(&ROOT.to_ne_bytes())
            .raw(&[0; 4])
            .text(TCA_KIND, kind);
        self.ask(message).map_err(|source| NodeError::Link { action: format!("put {kind} on {link}"), source })
    }
}

/// The code of the acknowledgement in a datagram: 0 or minus an error number; None when it holds none.
fn acknowledged(mut bytes: &[u8]) -> Option<i32> {
    while bytes.len() >= 20 {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if u16::from_ne_bytes([bytes[4], bytes[5]]) == NLMSG_ERROR {
            return Some(i32::from_ne_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]));
        }
        bytes = bytes.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.text(IFLA_IFNAME, "br0");
        message.text(IFLA_IFNAME, "eth0");
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 8 + 12);
        assert_eq!(&bytes[16..24], &[8, 0, 3, 0, b'b', b'r', b'0', 0]);
        assert_eq!(&bytes[24..36], &[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
        assert_eq!(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), 36);
    }

    #[test]
    fn an_acknowledgement_is_found_behind_another_message() {
        let mut bytes = vec![0_u8; 16];
        bytes[0] = 16;
        let mut error = vec![0_u8; 36];
        error[0] = 36;
        error[4] = 2;
        error[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        bytes.extend(error);
        assert_eq!(acknowledged(&bytes), Some(-17));
        assert_eq!(acknowledged(&bytes[..16]), None);
    }
}
