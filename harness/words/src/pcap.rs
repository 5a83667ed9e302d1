//! Reads a capture: which flows it holds, and whether texts are on the wire in clear. Pure; the format is the one that
//! `tcpdump -w` writes (pcap 2.4, in either byte order, micro- or nanoseconds).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of the file's head.
const HEAD: usize = 24;
/// Bytes of each packet's head.
const PACKET_HEAD: usize = 16;
/// Longest packet that is believed; anything longer is a broken file.
const LONGEST: usize = 256 * 1024;

/// Link types: what stands before the IP header.
const ETHERNET: u32 = 1;
const RAW: [u32; 2] = [12, 101];
const COOKED: u32 = 113;
const COOKED_2: u32 = 276;

/// The bytes are no capture.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PcapError {
    /// Not this format.
    #[error("not a capture: it begins with {0:02x?}")]
    Format(Vec<u8>),
    /// A link type without a known place for the IP header.
    #[error("link type {0} is unknown")]
    Link(u32),
    /// Cut off or damaged.
    #[error("the capture ends or breaks at byte {0}")]
    Broken(usize),
}

/// Packets and bytes of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Packets.
    pub packets: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

/// What a capture holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Packets of any kind.
    pub packets: u64,
    /// `SOURCE>DESTINATION PROTOCOL[/DESTINATION PORT]` to its size; only IPv4.
    pub flows: BTreeMap<String, Flow>,
    /// How many packets hold each of the texts looked for.
    pub texts: BTreeMap<String, u64>,
    /// First payload byte of UDP packets to each destination port, and how often.
    pub first_bytes: BTreeMap<String, u64>,
}

impl Summary {
    /// Packets from one address to another, by protocol (`udp/51871`, `tcp/2380`, `esp`).
    pub fn between(&self, from: &str, to: &str) -> BTreeMap<String, Flow> {
        let prefix = format!("{from}>{to} ");
        let of = self.flows.iter().filter_map(|(name, flow)| Some((name.strip_prefix(&prefix)?.to_owned(), *flow)));
        of.collect()
    }

    /// Packets that hold a text.
    pub fn holding(&self, name: &str) -> u64 {
        self.texts.get(name).copied().unwrap_or_default()
    }
}

/// Reads a capture and looks for byte strings, each under a name.
///
/// # Errors
/// [`PcapError`]; a capture cut off within its last packet is read up to it.
pub fn read(bytes: &[u8], texts: &BTreeMap<String, Vec<u8>>) -> Result<Summary, PcapError> {
    let number = order(bytes)?;
    let link = number(bytes, 20).ok_or(PcapError::Broken(bytes.len()))? & 0xffff;
    let mut summary = Summary { texts: texts.keys().map(|name| (name.clone(), 0)).collect(), ..Summary::default() };
    let mut at = HEAD;
    while let (Some(kept), Some(length)) = (number(bytes, at + 8), number(bytes, at + 12)) {
        let kept = kept as usize;
        if kept > LONGEST {
            return Err(PcapError::Broken(at));
        }
        let Some(packet) = bytes.get(at + PACKET_HEAD..at + PACKET_HEAD + kept) else { break };
        at += PACKET_HEAD + kept;
        summary.packets += 1;
        for (name, text) in texts {
            if packet.windows(text.len().max(1)).any(|part| part == text) {
                *summary.texts.entry(name.clone()).or_default() += 1;
            }
        }
        if let Some(ip) = internet(packet, link)? {
            count(&mut summary, ip, u64::from(length));
        }
    }
    Ok(summary)
}

type Number = fn(&[u8], usize) -> Option<u32>;

/// How numbers are written in this file.
fn order(bytes: &[u8]) -> Result<Number, PcapError> {
    let little: Number = |b, at| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?));
    let big: Number = |b, at| Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?));
    match bytes.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => Ok(little),
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => Ok(big),
        other => Err(PcapError::Format(other.unwrap_or(bytes).to_vec())),
    }
}

/// The IPv4 packet inside a frame, if there is one.
fn internet(packet: &[u8], link: u32) -> Result<Option<&[u8]>, PcapError> {
    let (kind, rest) = match link {
        ETHERNET => (packet.get(12..14), packet.get(14..)),
        COOKED => (packet.get(14..16), packet.get(16..)),
        COOKED_2 => (packet.get(0..2), packet.get(20..)),
        raw if RAW.contains(&raw) => (Some([8, 0].as_slice()), Some(packet)),
        other => return Err(PcapError::Link(other)),
    };
    Ok(match (kind, rest) {
        (Some([8, 0]), Some(ip)) if ip.first().is_some_and(|byte| byte >> 4 == 4) => Some(ip),
        _ => None,
    })
}

fn count(summary: &mut Summary, ip: &[u8], length: u64) {
    let (Some(protocol), Some(from), Some(to)) = (ip.get(9), address(ip, 12), address(ip, 16)) else { return };
    let body = ip.get(usize::from(ip[0] & 0xf) * 4..).unwrap_or_default();
    let port = body.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let name = match (protocol, port) {
        (6, Some(port)) => format!("tcp/{port}"),
        (17, Some(port)) => {
            if let Some(first) = body.get(8) {
                *summary.first_bytes.entry(format!("udp/{port} {first:02x}")).or_default() += 1;
            }
            format!("udp/{port}")
        }
        (1, _) => "icmp".to_owned(),
        (50, _) => "esp".to_owned(),
        (51, _) => "ah".to_owned(),
        (other, _) => format!("ip/{other}"),
    };
    let flow = summary.flows.entry(format!("{from}>{to} {name}")).or_default();
    flow.packets += 1;
    flow.bytes += length;
}

fn address(ip: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
    Some(bytes.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A UDP packet: source, destination, port, payload.
    pub(crate) type Udp<'a> = ([u8; 4], [u8; 4], u16, &'a [u8]);

    /// An Ethernet capture of UDP packets.
    pub(crate) fn capture(packets: &[Udp<'_>]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        for (from, to, port, payload) in packets {
            let mut frame = vec![0; 12];
            frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(from);
            frame.extend(to);
            frame.extend([0x30, 0x39]);
            frame.extend(port.to_be_bytes());
            frame.extend([0; 4]);
            frame.extend(*payload);
            file.extend([0; 8]);
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend(frame);
        }
        file
    }

    fn look(name: &str, text: &[u8]) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(name.to_owned(), text.to_vec())])
    }

    #[test]
    fn flows_and_texts_are_counted() {
        let a = [10, 0, 0, 1];
        let b = [10, 0, 0, 2];
        let file = capture(&[(a, b, 51871, b"\x04xx"), (a, b, 51871, b"\x04yy"), (b, a, 8472, b"..marker..")]);
        let seen = read(&file, &look("m", b"marker")).unwrap();
        assert_eq!((seen.packets, seen.holding("m")), (3, 1));
        assert_eq!(seen.between("10.0.0.1", "10.0.0.2")["udp/51871"].packets, 2);
        assert_eq!(seen.first_bytes["udp/51871 04"], 2);
        assert_eq!(seen.between("10.0.0.2", "10.0.0.1").keys().collect::<Vec<_>>(), ["udp/8472"]);
    }

    #[test]
    fn what_is_no_capture_is_an_error() {
        assert!(matches!(read(b"tcpdump: no such device", &BTreeMap::new()), Err(PcapError::Format(_))));
        assert!(matches!(read(b"", &BTreeMap::new()), Err(PcapError::Format(_))));
        let mut strange = capture(&[([1; 4], [2; 4], 1, b"x")]);
        strange[20] = 200;
        assert_eq!(read(&strange, &BTreeMap::new()), Err(PcapError::Link(200)));
    }

    proptest! {
        /// Whatever the bytes are, reading ends without a panic, and a cut loses at most what was cut.
        #[test]
        fn a_cut_or_noisy_capture_is_survived(cut in 0_usize..400, noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = capture(&[([1; 4], [2; 4], 7, b"abc"), ([1; 4], [2; 4], 7, b"def")]);
            let count = read(&whole, &BTreeMap::new()).unwrap().packets;
            if let Ok(part) = read(&whole[..cut.min(whole.len())], &BTreeMap::new()) {
                prop_assert!(part.packets <= count);
            }
            let mut noisy = whole[..HEAD].to_vec();
            noisy.extend(noise);
            let _ = read(&noisy, &look("m", b"marker"));
        }
    }
}
