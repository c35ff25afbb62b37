//! The parts that rules are made of.

use super::message::Messages;
use super::netfilter as nf;

const VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
const REGISTER: u32 = libc::NFT_REG_1 as u32;

/// `enum nft_payload_bases`.
const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

/// Where a packet carries the port of the guarded server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Port {
    /// `tcp dport`: packets to the server.
    Destination,
    /// `tcp sport`: packets of the server.
    Source,
}

/// RST and ACK of the TCP header's byte of flags.
const RST: u8 = 0x04;
const RST_ACK: u8 = 0x14;

/// The expressions of one rule, in the order in which they are to be tried.
pub(super) struct Expressions<'a>(pub(super) &'a mut Messages);

impl Expressions<'_> {
    fn add(&mut self, name: &str, fill: impl FnOnce(&mut Messages)) -> &mut Self {
        self.0.nest(nf::NFTA_LIST_ELEM, |m| {
            m.text(nf::NFTA_EXPR_NAME, name);
            m.nest(nf::NFTA_EXPR_DATA, fill);
        });
        self
    }

    fn load(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |m| {
            m.number(nf::NFTA_PAYLOAD_DREG, REGISTER);
            m.number(nf::NFTA_PAYLOAD_BASE, base);
            m.number(nf::NFTA_PAYLOAD_OFFSET, offset);
            m.number(nf::NFTA_PAYLOAD_LEN, length);
        })
    }

    fn mask(&mut self, mask: &[u8], xor: &[u8]) -> &mut Self {
        self.add("bitwise", |m| {
            m.number(nf::NFTA_BITWISE_SREG, REGISTER);
            m.number(nf::NFTA_BITWISE_DREG, REGISTER);
            m.number(nf::NFTA_BITWISE_LEN, mask.len() as u32);
            m.nest(nf::NFTA_BITWISE_MASK, |m| m.bytes_of(nf::NFTA_DATA_VALUE, mask));
            m.nest(nf::NFTA_BITWISE_XOR, |m| m.bytes_of(nf::NFTA_DATA_VALUE, xor));
        })
    }

    fn compare(&mut self, operation: i32, value: &[u8]) -> &mut Self {
        self.add("cmp", |m| {
            m.number(nf::NFTA_CMP_SREG, REGISTER);
            m.number(nf::NFTA_CMP_OP, operation as u32);
            m.nest(nf::NFTA_CMP_DATA, |m| m.bytes_of(nf::NFTA_DATA_VALUE, value));
        })
    }

    fn meta_is(&mut self, key: i32, value: u8) -> &mut Self {
        self.add("meta", |m| {
            m.number(nf::NFTA_META_DREG, REGISTER);
            m.number(nf::NFTA_META_KEY, key as u32);
        })
        .compare(libc::NFT_CMP_EQ, &[value])
    }

    /// `meta l4proto tcp`, and the port into the register.
    fn tcp_port(&mut self, which: Port) -> &mut Self {
        let offset = match which {
            Port::Source => 0,
            Port::Destination => 2,
        };
        self.meta_is(libc::NFT_META_L4PROTO, libc::IPPROTO_TCP as u8)
            .load(TRANSPORT, offset, 2)
    }

    /// `tcp dport PORT`
    pub(super) fn port_is(&mut self, which: Port, port: u16) -> &mut Self {
        self.tcp_port(which)
            .compare(libc::NFT_CMP_EQ, &port.to_be_bytes())
    }

    /// `tcp dport @SET`
    pub(super) fn port_in(&mut self, which: Port, set: &str) -> &mut Self {
        self.tcp_port(which).lookup(set, |_| {})
    }

    /// `tcp dport != @SET`
    pub(super) fn port_not_in(&mut self, which: Port, set: &str) -> &mut Self {
        self.tcp_port(which).lookup(set, |m| {
            m.number(nf::NFTA_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32)
        })
    }

    /// `tcp dport vmap @MAP`
    pub(super) fn verdict_by_port(&mut self, which: Port, map: &str) -> &mut Self {
        self.tcp_port(which)
            .lookup(map, |m| m.number(nf::NFTA_LOOKUP_DREG, VERDICT))
    }

    fn lookup(&mut self, set: &str, more: impl FnOnce(&mut Messages)) -> &mut Self {
        self.add("lookup", |m| {
            m.text(nf::NFTA_LOOKUP_SET, set);
            m.number(nf::NFTA_LOOKUP_SREG, REGISTER);
            more(m);
        })
    }

    /// `ip daddr ADDRESS` (or `saddr`, `ip6`): the server's own address.
    pub(super) fn own_address_is(&mut self, which: Port, address: std::net::IpAddr) -> &mut Self {
        use std::net::IpAddr;
        let protocol = match address {
            IpAddr::V4(_) => libc::NFPROTO_IPV4,
            IpAddr::V6(_) => libc::NFPROTO_IPV6,
        };
        self.meta_is(libc::NFT_META_NFPROTO, protocol as u8);
        // Offsets of the source address in the two headers; the destination follows it.
        match address {
            IpAddr::V4(address) => {
                let offset = if matches!(which, Port::Source) { 12 } else { 16 };
                self.load(NETWORK, offset, 4)
                    .compare(libc::NFT_CMP_EQ, &address.octets())
            }
            IpAddr::V6(address) => {
                let offset = if matches!(which, Port::Source) { 8 } else { 24 };
                self.load(NETWORK, offset, 16)
                    .compare(libc::NFT_CMP_EQ, &address.octets())
            }
        }
    }

    /// `tcp flags rst`
    pub(super) fn is_reset(&mut self) -> &mut Self {
        self.meta_is(libc::NFT_META_L4PROTO, libc::IPPROTO_TCP as u8)
            .load(TRANSPORT, 13, 1)
            .mask(&[RST], &[0])
            .compare(libc::NFT_CMP_NEQ, &[0])
    }

    /// `tcp flags set rst | ack`. Done on two bytes, as the checksum counts them.
    pub(super) fn turn_into_reset(&mut self) -> &mut Self {
        self.meta_is(libc::NFT_META_L4PROTO, libc::IPPROTO_TCP as u8)
            .load(TRANSPORT, 12, 2)
            .mask(&[0xff, 0], &[0, RST_ACK])
            .add("payload", |m| {
                m.number(nf::NFTA_PAYLOAD_SREG, REGISTER);
                m.number(nf::NFTA_PAYLOAD_BASE, TRANSPORT);
                m.number(nf::NFTA_PAYLOAD_OFFSET, 12);
                m.number(nf::NFTA_PAYLOAD_LEN, 2);
                m.number(nf::NFTA_PAYLOAD_CSUM_TYPE, libc::NFT_PAYLOAD_CSUM_INET as u32);
                m.number(nf::NFTA_PAYLOAD_CSUM_OFFSET, 16);
            })
    }

    /// `counter`
    pub(super) fn counter(&mut self) -> &mut Self {
        self.add("counter", |_| {})
    }

    /// `reject with tcp reset`
    pub(super) fn reject(&mut self) {
        self.add("reject", |m| {
            m.number(nf::NFTA_REJECT_TYPE, libc::NFT_REJECT_TCP_RST as u32);
        });
    }

    /// `accept`: ends the table's part, other tables still have theirs.
    pub(super) fn accept(&mut self) {
        self.verdict(|m| m.number(nf::NFTA_VERDICT_CODE, libc::NF_ACCEPT as u32));
    }

    /// `jump CHAIN`
    pub(super) fn jump(&mut self, chain: &str) {
        self.verdict(|m| jump_to(m, chain));
    }

    fn verdict(&mut self, fill: impl FnOnce(&mut Messages)) {
        self.add("immediate", |m| {
            m.number(nf::NFTA_IMMEDIATE_DREG, VERDICT);
            m.nest(nf::NFTA_IMMEDIATE_DATA, |m| m.nest(nf::NFTA_DATA_VERDICT, fill));
        });
    }
}

/// The inside of a verdict that says `jump CHAIN`.
pub(super) fn jump_to(m: &mut Messages, chain: &str) {
    m.number(nf::NFTA_VERDICT_CODE, libc::NFT_JUMP as u32);
    m.text(nf::NFTA_VERDICT_CHAIN, chain);
}
