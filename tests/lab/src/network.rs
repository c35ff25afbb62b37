//! A switch with a port for each host, and cables to cut.
//!
//! The switch is a network namespace with a bridge in it. All of it (cables included) belongs to namespaces that die
//! with their processes, so that even a killed run leaves no interface behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::children::{self, Lifetime};

/// The port of the switch to which this process, with its clients, is connected.
const CLIENTS: &str = "clients";

const SWITCH: &str = "ip link set lo up && ip link add br0 type bridge && ip link set br0 up && echo up && \
                      exec >/dev/null && exec sleep infinity";

/// Where one host is plugged in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortOfHost {
    /// The switch's interface for it: `h1`.
    pub(crate) interface: String,
    /// The host's address.
    pub address: Ipv4Addr,
}

/// An end of a connection, for cuts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// A host.
    Host(PortOfHost),
    /// Everybody outside the hosts: clients, and the test itself.
    Clients,
    /// Anything at all.
    Any,
}

impl End {
    fn rule(&self, direction: &str) -> String {
        match self {
            End::Host(port) => format!("{direction} \"{}\" ", port.interface),
            End::Clients => format!("{direction} \"{CLIENTS}\" "),
            End::Any => String::new(),
        }
    }
}

/// What becomes of that which the switch sends to a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// No more than so many thousand bits in a second; what has to wait for longer than 400 ms is dropped.
    Rate { kbit: u32 },
    /// No more than so many bytes of datagrams (UDP) in a second; the others wait, however long. Streams are not touched.
    Datagrams { bytes: u32 },
    /// Each packet arrives so much later.
    Delay { ms: u32 },
}

/// The part of packets, in percent, that a cut drops: all of them.
const ALL: u8 = 100;

/// The switch.
#[derive(Debug)]
pub struct Network {
    holder: Mutex<Child>,
    holder_pid: i32,
    /// The third octet and the one before it; hosts are `.1` up, this process is `.254`.
    subnet: [u8; 3],
    uplink: String,
    outlives_us: bool,
    /// What is dropped between whom, in percent.
    cuts: Mutex<BTreeMap<(End, End), u8>>,
    /// Interfaces to hosts with a [`Shape`].
    shaped: Mutex<BTreeSet<String>>,
}

impl Network {
    /// Sets up the switch and connects this process to it.
    ///
    /// # Errors
    /// Not root, or iproute2 is missing, or the kernel has no bridges.
    pub(crate) fn new(lifetime: Lifetime) -> Result<Network> {
        if !Uid::effective().is_root() {
            bail!("hosts with networks of their own need root; run as root, or use Lab::new() (loopback)");
        }
        let mut command = children::command("unshare", lifetime);
        command.args(["--net", "sh", "-c", SWITCH]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut holder = children::spawn(command)?;
        let stdout = holder.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot hear from the switch")?;
        if line.trim() != "up" {
            let heard = holder.wait_with_output().context("the switch vanished")?;
            bail!(
                "cannot make a switch: {}",
                String::from_utf8_lossy(&heard.stderr).trim()
            );
        }
        let holder_pid = holder.id() as i32;
        let (subnet, uplink) = connect_us(holder_pid)?;
        let network = Network {
            holder: Mutex::new(holder),
            holder_pid,
            subnet,
            uplink,
            outlives_us: lifetime == Lifetime::Own,
            cuts: Mutex::default(),
            shaped: Mutex::default(),
        };
        network.in_switch(&format!("ip link set {CLIENTS} master br0 up"))?;
        Ok(network)
    }

    /// The port for the `index`-th host, from 1 to 200.
    pub(crate) fn port(&self, index: u8) -> PortOfHost {
        let [a, b, c] = self.subnet;
        PortOfHost {
            interface: format!("h{index}"),
            address: Ipv4Addr::new(a, b, c, index),
        }
    }

    /// The name of our own interface to the switch.
    pub fn uplink(&self) -> &str {
        &self.uplink
    }

    /// The address of this process, for its hosts.
    pub fn our_address(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 254)
    }

    /// Lays the cable between the switch and a host that was just switched on.
    pub(crate) fn plug_in(&self, port: &PortOfHost, init: i32) -> Result<()> {
        let PortOfHost { interface, address } = port;
        // After a power cut the kernel takes its time to drop the old cable.
        self.in_switch(&format!(
            "ip link del {interface} 2>/dev/null; ip link add {interface} type veth peer name eth0 netns {init} && \
             ip link set {interface} master br0 up"
        ))?;
        // A machine keeps its hardware address when it is switched off and on. With a new one nobody who knew the old one
        // reaches it before that is forgotten, which takes half a minute and more.
        let [a, b, c, d] = address.octets();
        in_network_of(
            init,
            &format!(
                "ip link set lo up && ip link set eth0 address 02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x} && \
                 ip addr add {address}/24 dev eth0 && ip link set eth0 up"
            ),
            None,
        )
    }

    /// Drops everything that `from` sends to `to`, until healed.
    ///
    /// # Errors
    /// nftables is missing (scripts/install-deps).
    pub fn cut_one_way(&self, from: End, to: End) -> Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.insert((from, to), ALL);
        self.install(&cuts)
    }

    /// Drops `percent` of a hundred packets that `from` sends to `to`, chosen at random, until healed.
    ///
    /// # Errors
    /// nftables is missing (scripts/install-deps).
    pub fn lose(&self, from: End, to: End, percent: u8) -> Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.insert((from, to), percent.min(ALL));
        self.install(&cuts)
    }

    /// Shapes what is sent to a host, until healed.
    ///
    /// # Errors
    /// The kernel has no such queueing discipline (see [`Network::can_delay`]), or `host` is not a host.
    pub fn shape(&self, host: &End, shape: Shape) -> Result<()> {
        let End::Host(PortOfHost { interface, .. }) = host else {
            bail!("only what is sent to a host can be shaped, not {host:?}")
        };
        let root = format!("tc qdisc replace dev {interface} root");
        let commands = match shape {
            Shape::Rate { kbit } => format!("{root} tbf rate {kbit}kbit burst 5kb latency 400ms"),
            Shape::Delay { ms } => format!("{root} netem delay {ms}ms"),
            Shape::Datagrams { bytes } => format!(
                "{root} handle 1: htb default 20 && \
                 tc class add dev {interface} parent 1: classid 1:10 htb rate {bytes}bps burst 100 cburst 100 quantum 1500 && \
                 tc class add dev {interface} parent 1: classid 1:20 htb rate 10gbit quantum 60000 && \
                 tc qdisc add dev {interface} parent 1:10 pfifo limit 1000 && \
                 tc filter add dev {interface} parent 1: protocol ip u32 match ip protocol 17 0xff flowid 1:10"
            ),
        };
        let mut shaped = self.shaped.lock().unwrap_or_else(PoisonError::into_inner);
        self.in_switch(&commands)?;
        shaped.insert(interface.clone());
        Ok(())
    }

    /// Whether this kernel can delay packets (netem).
    pub fn can_delay(&self) -> bool {
        self.in_switch("tc qdisc add dev lo root netem delay 1ms && tc qdisc del dev lo root")
            .is_ok()
    }

    /// Drops everything between `a` and `b`, both ways, until healed.
    ///
    /// # Errors
    /// nftables is missing (scripts/install-deps).
    pub fn cut(&self, a: End, b: End) -> Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.insert((a.clone(), b.clone()), ALL);
        cuts.insert((b, a), ALL);
        self.install(&cuts)
    }

    /// Undoes every cut, loss and shape.
    ///
    /// # Errors
    /// nftables is missing (scripts/install-deps).
    pub fn heal(&self) -> Result<()> {
        let mut shaped = self.shaped.lock().unwrap_or_else(PoisonError::into_inner);
        for interface in std::mem::take(&mut *shaped) {
            // One whose host was switched off meanwhile has a new cable, without a shape.
            self.in_switch(&format!("tc qdisc del dev {interface} root 2>/dev/null || true"))?;
        }
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.clear();
        self.install(&cuts)
    }

    /// One transaction replaces the whole rule set: no packet slips through between two rules.
    fn install(&self, cuts: &BTreeMap<(End, End), u8>) -> Result<()> {
        let mut rules = String::from(
            "table bridge cuts {}\ndelete table bridge cuts\ntable bridge cuts { chain forward { \
             type filter hook forward priority 0; policy accept;\n",
        );
        for ((from, to), percent) in cuts {
            let chance = match *percent {
                ALL => String::new(),
                percent => format!("numgen random mod 100 < {percent} "),
            };
            writeln!(
                rules,
                "{}{}{chance}drop",
                from.rule("iifname"),
                to.rule("oifname")
            )?;
        }
        rules.push_str("}\n}\n");
        in_network_of(self.holder_pid, "nft -f -", Some(&rules))
    }

    fn in_switch(&self, script: &str) -> Result<()> {
        in_network_of(self.holder_pid, script, None)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.outlives_us {
            return;
        }
        // Our own end of the cable first: the kernel would take it down by itself, but only some time after.
        let _ = Command::new("ip")
            .args(["link", "del", &self.uplink])
            .stderr(Stdio::null())
            .status();
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = holder.kill();
        let _ = holder.wait();
    }
}

/// Lays a cable from this process's network to the switch, in a subnet that nobody here uses yet. 198.18.0.0/15 is
/// set aside for test networks (RFC 2544), so it is no one's real network.
fn connect_us(switch: i32) -> Result<([u8; 3], String)> {
    let mut last = String::new();
    for attempt in 0..64_u32 {
        let number = std::process::id().wrapping_add(attempt * 37) % 512;
        let subnet = [198, 18 + (number / 256) as u8, (number % 256) as u8];
        let [a, b, c] = subnet;
        let uplink = format!("pgctl-{number}");
        let taken = Command::new("ip")
            .args(["-4", "route", "show", "exact", &format!("{a}.{b}.{c}.0/24")])
            .output();
        if taken.is_ok_and(|taken| !taken.stdout.is_empty()) {
            continue;
        }
        // The interface's name doubles as the lock on the number: a second run with the same one fails here.
        let script = format!(
            "ip link add {uplink} type veth peer name {CLIENTS} netns {switch} && \
             ip addr add {a}.{b}.{c}.254/24 dev {uplink} && ip link set {uplink} up"
        );
        let done = Command::new("sh")
            .args(["-c", &script])
            .output()
            .context("cannot run sh")?;
        if done.status.success() {
            return Ok((subnet, uplink));
        }
        last = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    }
    bail!("cannot connect to the switch: {last}")
}

/// Runs a shell script in the network namespace of a process (and only that one of its namespaces).
fn in_network_of(pid: i32, script: &str, input: Option<&str>) -> Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg("--target")
        .arg(pid.to_string())
        .args(["--net", "--", "sh", "-c", script]);
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start nsenter")?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin
            .write_all(input.as_bytes())
            .context("cannot write to the script")?;
    }
    let done = child.wait_with_output().context("cannot wait for nsenter")?;
    if !done.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
