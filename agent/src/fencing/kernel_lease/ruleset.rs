//! The table: its sets, chains and rules, and the changes that are made to it.
//!
//! As `nft list table inet pgctl_5432_...` shows it, in short:
//!
//! ```text
//! set armed  { type inet_service; }                      # the port, while the server is or may become a primary
//! map lease  { type inet_service : verdict; }            # the port : jump turn_a, or turn_b
//! set until_a, until_b { type inet_service; flags timeout; }   # the port, while the kernel's timer runs
//! chain turn_a { tcp dport @until_a accept; tcp sport @until_a accept; }      # and turn_b
//! chain requests {
//!     tcp dport != @armed accept
//!     tcp dport vmap @lease
//!     tcp flags rst accept
//!     counter reject with tcp reset
//! }
//! chain replies {
//!     tcp sport != @armed accept
//!     tcp sport vmap @lease
//!     tcp flags rst accept
//!     counter tcp flags set rst | ack accept
//! }
//! chain input  { type filter hook input priority filter;  tcp dport 5432 jump requests }
//! chain output { type filter hook output priority filter; tcp sport 5432 jump replies }
//! ```

use super::countdown::Countdown;
use super::expression::{Expressions, Port, jump_to};
use super::message::Messages;
use super::netfilter::{self as nf, message};
use super::place::Place;

/// Says whose table it is, and which layout it has: a table with another one is replaced. To be counted up with each
/// change of anything below.
pub(super) const COMMENT: &str = "pgctl kernel lease, layout 1";

const ARMED: &str = "armed";
const LEASE: &str = "lease";
const CREATE: i32 = libc::NLM_F_CREATE;
/// Fails where it is there already.
const CREATE_NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// The two timers, used by turns: one counts while the other is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    A,
    B,
}

impl Turn {
    pub(super) fn other(self) -> Turn {
        match self {
            Turn::A => Turn::B,
            Turn::B => Turn::A,
        }
    }

    fn set(self) -> &'static str {
        match self {
            Turn::A => "until_a",
            Turn::B => "until_b",
        }
    }

    pub(super) fn chain(self) -> &'static str {
        match self {
            Turn::A => "turn_a",
            Turn::B => "turn_b",
        }
    }
}

impl Place {
    /// Makes the whole table, unarmed.
    pub(super) fn create(&self, m: &mut Messages, flags: u32) {
        self.table_message(m, CREATE_NEW, flags);
        self.set(m, 1, ARMED, 0, false);
        self.set(m, 2, LEASE, libc::NFT_SET_MAP as u32, true);
        for (id, turn) in [(3, Turn::A), (4, Turn::B)] {
            self.set(m, id, turn.set(), libc::NFT_SET_TIMEOUT as u32, false);
            self.chain(m, turn.chain(), None);
            for port in [Port::Destination, Port::Source] {
                self.rule(m, turn.chain(), None, |e| e.port_in(port, turn.set()).accept());
            }
        }
        let (requests, replies) = (Port::Destination, Port::Source);
        for (chain, port) in [("requests", requests), ("replies", replies)] {
            self.chain(m, chain, None);
            self.rule(m, chain, Some("a standby serves without a lease"), |e| {
                e.port_not_in(port, ARMED).accept();
            });
            self.rule(m, chain, Some("while the timer of the lease runs"), |e| {
                e.verdict_by_port(port, LEASE);
            });
            self.rule(m, chain, Some("the end of a connection may be told"), |e| {
                e.is_reset().accept();
            });
        }
        self.rule(m, "requests", Some("the lease is over"), |e| e.counter().reject());
        self.rule(m, "replies", Some("the lease is over"), |e| {
            e.counter().turn_into_reset().accept();
        });
        let hooks = [
            ("input", libc::NF_INET_LOCAL_IN, requests, "requests"),
            ("output", libc::NF_INET_LOCAL_OUT, replies, "replies"),
        ];
        for (chain, hook, port, target) in hooks {
            self.chain(m, chain, Some(hook));
            self.rule(m, chain, None, |e| {
                if let Some(address) = self.address {
                    e.own_address_is(port, address);
                }
                e.port_is(port, self.port).jump(target);
            });
        }
    }

    /// Takes the table over from a process that has ended.
    pub(super) fn take_over(&self, m: &mut Messages, flags: u32) {
        self.table_message(m, 0, flags);
    }

    /// Removes the table with all that is in it.
    pub(super) fn remove(&self, m: &mut Messages) {
        m.change(message::DELTABLE, 0, |m| m.text(nf::NFTA_TABLE_NAME, &self.table));
    }

    /// Sets the timer of `turn`, which must not be in force.
    pub(super) fn set_timer(&self, m: &mut Messages, turn: Turn, countdown: Countdown) {
        // Without a list of elements: all of them.
        m.change(message::DELSETELEM, 0, |m| {
            m.text(nf::NFTA_SET_ELEM_LIST_TABLE, &self.table);
            m.text(nf::NFTA_SET_ELEM_LIST_SET, turn.set());
        });
        self.element(m, message::NEWSETELEM, CREATE_NEW, turn.set(), |m| {
            m.long_number(nf::NFTA_SET_ELEM_TIMEOUT, countdown.milliseconds());
        });
    }

    /// Puts the timer of `turn` in force, in place of another if one `was_in_force`. It holds no time: it may come late.
    pub(super) fn put_in_force(&self, m: &mut Messages, turn: Turn, was_in_force: bool) {
        if was_in_force {
            self.put_out_of_force(m);
        }
        self.element(m, message::NEWSETELEM, CREATE_NEW, LEASE, |m| {
            m.nest(nf::NFTA_SET_ELEM_DATA, |m| {
                m.nest(nf::NFTA_DATA_VERDICT, |m| jump_to(m, turn.chain()));
            });
        });
    }

    /// Puts the timer that is in force out of force.
    pub(super) fn put_out_of_force(&self, m: &mut Messages) {
        self.element(m, message::DELSETELEM, 0, LEASE, |_| {});
    }

    /// From here on a timer is needed. Does nothing if it is so already.
    pub(super) fn arm(&self, m: &mut Messages) {
        self.element(m, message::NEWSETELEM, CREATE, ARMED, |_| {});
    }

    /// From here on none is needed.
    pub(super) fn disarm(&self, m: &mut Messages) {
        self.element(m, message::DELSETELEM, 0, ARMED, |_| {});
    }

    /// Asks for the table itself.
    pub(super) fn ask_table(&self, m: &mut Messages) {
        m.question(message::GETTABLE, |m| m.text(nf::NFTA_TABLE_NAME, &self.table));
    }

    /// Asks whether it is armed.
    pub(super) fn ask_armed(&self, m: &mut Messages) {
        m.question(message::GETSETELEM, |m| self.element_body(m, ARMED, |_| {}));
    }

    /// Asks which timer is in force.
    pub(super) fn ask_in_force(&self, m: &mut Messages) {
        m.question(message::GETSETELEM, |m| self.element_body(m, LEASE, |_| {}));
    }

    fn table_message(&self, m: &mut Messages, create: i32, flags: u32) {
        m.change(message::NEWTABLE, create, |m| {
            m.text(nf::NFTA_TABLE_NAME, &self.table);
            m.number(nf::NFTA_TABLE_FLAGS, flags);
            comment(m, nf::NFTA_TABLE_USERDATA, COMMENT);
        });
    }

    fn set(&self, m: &mut Messages, id: u32, name: &str, flags: u32, verdicts: bool) {
        m.change(message::NEWSET, CREATE_NEW, |m| {
            m.text(nf::NFTA_SET_TABLE, &self.table);
            m.text(nf::NFTA_SET_NAME, name);
            m.number(nf::NFTA_SET_FLAGS, flags);
            m.number(nf::NFTA_SET_KEY_TYPE, nf::NFT_TYPE_INET_SERVICE);
            m.number(nf::NFTA_SET_KEY_LEN, 2);
            if verdicts {
                m.number(nf::NFTA_SET_DATA_TYPE, nf::NFT_DATA_VERDICT);
            }
            m.number(nf::NFTA_SET_ID, id);
        });
    }

    fn chain(&self, m: &mut Messages, name: &str, hook: Option<i32>) {
        m.change(message::NEWCHAIN, CREATE_NEW, |m| {
            m.text(nf::NFTA_CHAIN_TABLE, &self.table);
            m.text(nf::NFTA_CHAIN_NAME, name);
            if let Some(hook) = hook {
                m.nest(nf::NFTA_CHAIN_HOOK, |m| {
                    m.number(nf::NFTA_HOOK_HOOKNUM, hook as u32);
                    // NF_IP_PRI_FILTER. What other tables refuse is refused, whoever comes first.
                    m.number(nf::NFTA_HOOK_PRIORITY, 0);
                });
                m.number(nf::NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32);
                m.text(nf::NFTA_CHAIN_TYPE, "filter");
            }
        });
    }

    fn rule(&self, m: &mut Messages, chain: &str, why: Option<&str>, fill: impl FnOnce(&mut Expressions)) {
        m.change(message::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |m| {
            m.text(nf::NFTA_RULE_TABLE, &self.table);
            m.text(nf::NFTA_RULE_CHAIN, chain);
            m.nest(nf::NFTA_RULE_EXPRESSIONS, |m| fill(&mut Expressions(m)));
            if let Some(why) = why {
                comment(m, nf::NFTA_RULE_USERDATA, why);
            }
        });
    }

    fn element(&self, m: &mut Messages, kind: u16, flags: i32, set: &str, more: impl FnOnce(&mut Messages)) {
        m.change(kind, flags, |m| self.element_body(m, set, more));
    }

    fn element_body(&self, m: &mut Messages, set: &str, more: impl FnOnce(&mut Messages)) {
        m.text(nf::NFTA_SET_ELEM_LIST_TABLE, &self.table);
        m.text(nf::NFTA_SET_ELEM_LIST_SET, set);
        m.nest(nf::NFTA_SET_ELEM_LIST_ELEMENTS, |m| {
            m.nest(nf::NFTA_LIST_ELEM, |m| {
                m.nest(nf::NFTA_SET_ELEM_KEY, |m| {
                    m.bytes_of(nf::NFTA_DATA_VALUE, &self.port.to_be_bytes());
                });
                more(m);
            });
        });
    }
}

/// What is in a comment.
pub(super) fn comment_text(user_data: &[u8]) -> Option<&str> {
    match user_data {
        [nf::UDATA_COMMENT, length, rest @ ..] => {
            rest.get(..usize::from(*length)).and_then(super::message::text)
        }
        _ => None,
    }
}

/// A comment as the `nft` program writes and shows it: kind, length, text with a zero.
fn comment(m: &mut Messages, kind: u16, text: &str) {
    m.bytes_with(kind, |bytes| {
        // Our comments are far below the 128 bytes that `nft` allows.
        bytes.extend([nf::UDATA_COMMENT, (text.len() + 1) as u8]);
        bytes.extend(text.as_bytes());
        bytes.push(0);
    });
}
