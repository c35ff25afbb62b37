//! The kernel's numbers for nf_tables, by the kernel's own names.
//!
//! From `include/uapi/linux/netfilter/nf_tables.h` (attributes, expressions, flags) and `nfnetlink.h`; they are part of
//! the kernel's promise to user space and never change. What the libc crate has is taken from there.

/// `NFNL_SUBSYS_NFTABLES << 8`: the upper half of the type of each nf_tables message.
pub(super) const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// `struct nfgenmsg.nfgen_family` of tables for IPv4 and IPv6 together.
pub(super) const FAMILY: u8 = libc::NFPROTO_INET as u8;

/// Message types, without the subsystem.
pub(super) mod message {
    pub(in super::super) const NEWTABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
    pub(in super::super) const GETTABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
    pub(in super::super) const DELTABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
    pub(in super::super) const NEWCHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
    pub(in super::super) const NEWRULE: u16 = libc::NFT_MSG_NEWRULE as u16;
    pub(in super::super) const NEWSET: u16 = libc::NFT_MSG_NEWSET as u16;
    pub(in super::super) const NEWSETELEM: u16 = libc::NFT_MSG_NEWSETELEM as u16;
    pub(in super::super) const GETSETELEM: u16 = libc::NFT_MSG_GETSETELEM as u16;
    pub(in super::super) const DELSETELEM: u16 = libc::NFT_MSG_DELSETELEM as u16;
}

/// `enum nft_table_flags`: only the socket that made the table may change it, and `nft flush ruleset` leaves it alone.
/// Linux 5.12.
pub(super) const NFT_TABLE_F_OWNER: u32 = 0x2;
/// The table outlives its owner's socket and can then be taken over. Linux 6.9.
pub(super) const NFT_TABLE_F_PERSIST: u32 = 0x4;

pub(super) const NFTA_LIST_ELEM: u16 = 1;

pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_TABLE_USERDATA: u16 = 6;

pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;

pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;

pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;

pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(super) const NFTA_SET_ID: u16 = 10;

pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;

pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_TIMEOUT: u16 = 4;

pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
/// `NFT_DATA_VERDICT`: the data type of a map from keys to verdicts.
pub(super) const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;

pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;

pub(super) const NFTA_IMMEDIATE_DREG: u16 = 1;
pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;

pub(super) const NFTA_BITWISE_SREG: u16 = 1;
pub(super) const NFTA_BITWISE_DREG: u16 = 2;
pub(super) const NFTA_BITWISE_LEN: u16 = 3;
pub(super) const NFTA_BITWISE_MASK: u16 = 4;
pub(super) const NFTA_BITWISE_XOR: u16 = 5;

pub(super) const NFTA_CMP_SREG: u16 = 1;
pub(super) const NFTA_CMP_OP: u16 = 2;
pub(super) const NFTA_CMP_DATA: u16 = 3;

pub(super) const NFTA_LOOKUP_SET: u16 = 1;
pub(super) const NFTA_LOOKUP_SREG: u16 = 2;
pub(super) const NFTA_LOOKUP_DREG: u16 = 3;
pub(super) const NFTA_LOOKUP_FLAGS: u16 = 5;

pub(super) const NFTA_PAYLOAD_DREG: u16 = 1;
pub(super) const NFTA_PAYLOAD_BASE: u16 = 2;
pub(super) const NFTA_PAYLOAD_OFFSET: u16 = 3;
pub(super) const NFTA_PAYLOAD_LEN: u16 = 4;
pub(super) const NFTA_PAYLOAD_SREG: u16 = 5;
pub(super) const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
pub(super) const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;

pub(super) const NFTA_META_DREG: u16 = 1;
pub(super) const NFTA_META_KEY: u16 = 2;

pub(super) const NFTA_REJECT_TYPE: u16 = 1;

/// Key types as the `nft` program numbers them (`include/datatype.h`), so that it can print the sets.
pub(super) const NFT_TYPE_INET_SERVICE: u32 = 13;
/// User data of tables and rules as libnftnl lays it out: a comment is entry 0.
pub(super) const UDATA_COMMENT: u8 = 0;
