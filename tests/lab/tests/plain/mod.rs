//! A plain PostgreSQL server, to test the lab with.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::{DEADLINE, Host, Lab, Program, binaries, sql, wait_until};

/// A server without an agent, on a host of its own.
pub struct Plain {
    lab: Lab,
    pub host: Host,
    bin_dir: PathBuf,
    pub address: SocketAddr,
    pub server: Option<Program>,
}

impl Plain {
    /// Made by initdb and started, on a host called `name`.
    pub async fn new(lab: &Lab, name: &str) -> Result<Plain> {
        let host = lab.host(name)?;
        let address = SocketAddr::new(IpAddr::V4(host.ip()), lab.port_for(5432)?);
        let bin_dir = binaries::newest_postgres()?;
        let mut plain = Plain {
            lab: lab.clone(),
            host,
            bin_dir,
            address,
            server: None,
        };
        plain.host.power_on().await?;
        let data = plain.data().display().to_string();
        plain.run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "--locale=C.UTF-8",
            ],
        )?;
        std::fs::write(plain.data().join("pg_hba.conf"), "host all all all trust\n")?;
        plain.start().await?;
        Ok(plain)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.host.dir().join("data")
    }

    /// Runs one of PostgreSQL's programs on the host.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.host
            .output(self.lab.servers_run_as(), &self.bin_dir.join(program), args)
    }

    /// Starts it, its host too if that is off, and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        self.host.power_on().await?;
        let data = self.data().display().to_string();
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let args = [
            "-D",
            &data,
            "-c",
            "unix_socket_directories=",
            "-h",
            &ip,
            "-p",
            &port,
        ];
        let log = self.lab.dir().join(format!("{}.log", self.host.name()));
        let postgres = self.bin_dir.join("postgres");
        self.server = Some(self.host.run(self.lab.servers_run_as(), &log, &postgres, &args)?);
        let up = wait_until("the server answers", DEADLINE, || {
            sql::value(self.address, "SELECT 1")
        })
        .await;
        up.map(drop)
            .with_context(|| std::fs::read_to_string(log).unwrap_or_default())
    }
}
