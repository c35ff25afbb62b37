//! The same promises on every kind of store, against a server that speaks its protocol:
//!
//! | store | server | where it comes from |
//! |---|---|---|
//! | S3 | moto | `scripts/moto-venv`, named by PGCTL_TEST_MOTO; or any empty bucket, PGCTL_TEST_S3=http://HOST:PORT/BUCKET |
//! | Azure | Azurite | `scripts/azurite`, named by PGCTL_TEST_AZURITE |
//! | Google | `tests/scripted-store` | here: no emulator of its XML interface is to be had as a package |
//!
//! `make test-stores` installs both and runs this.

#![cfg(feature = "cloud")]

use agent_core::pg::{SystemId, TimelineId};
use repository::{
    Azure, Error, Gcs, Line, Repository, RepositoryConfig, S3, Source, Stored, WalFileContent, WalName,
};
use scripted_store::ScriptedStore;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Python and Node take their time on a machine that is busy.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// An emulator; it is killed by its own id at the end.
struct Emulator {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Emulator {
    /// Starts the program that `variable` names, if it does; `arguments` for a port and a folder.
    fn start(variable: &str, arguments: impl Fn(u16, &str) -> Vec<String>) -> Option<Emulator> {
        let Ok(program) = std::env::var(variable) else {
            eprintln!("SKIPPED: {variable} names no program");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("its number").port();
        drop(free);
        let child = Command::new(&program)
            .args(arguments(port, &folder.path().display().to_string()))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut emulator = Emulator {
            child,
            port,
            _folder: folder,
        };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = emulator.child.try_wait().expect("its state");
            assert!(ended.is_none(), "{program} has ended: {ended:?}");
            assert!(begun.elapsed() < STARTS_WITHIN, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(emulator)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn somewhere() -> RepositoryConfig {
    let mut config = RepositoryConfig::directory("bucket", "/");
    config.path = None;
    config
}

fn s3(endpoint: &str, bucket: &str) -> RepositoryConfig {
    let mut config = somewhere();
    config.s3 = Some(S3 {
        bucket: bucket.to_owned(),
        prefix: format!("run-{}", std::process::id()),
        region: Some("us-east-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        access_key_id: Some("test".to_owned()),
        secret_access_key: Some("test".to_owned()),
    });
    config
}

fn python(script: &str, arguments: &[&str]) {
    let done = Command::new("python3")
        .args(["-c", script])
        .args(arguments)
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_bucket_of_s3_keeps_its_promises() {
    if let Ok(url) = std::env::var("PGCTL_TEST_S3") {
        let (endpoint, bucket) = url
            .rsplit_once('/')
            .expect("PGCTL_TEST_S3 is http://HOST:PORT/BUCKET");
        return keeps_its_promises(s3(endpoint, bucket), s3(endpoint, "no-such-bucket")).await;
    }
    let listen = |port: u16, _: &str| {
        ["-H", "127.0.0.1", "-p", &port.to_string()]
            .map(str::to_owned)
            .to_vec()
    };
    let Some(moto) = Emulator::start("PGCTL_TEST_MOTO", listen) else {
        return;
    };
    let make = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], method='PUT'))";
    python(make, &[&format!("{}/pgctl", moto.url())]);
    keeps_its_promises(s3(&moto.url(), "pgctl"), s3(&moto.url(), "no-such-bucket")).await;
}

/// Known to everybody: Azurite's own account.
const AZURITE: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

const MAKE_CONTAINER: &str = "
import base64, email.utils, hashlib, hmac, sys, urllib.request as u
url, account, key, container = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
signed = f'PUT\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\\nx-ms-date:{date}\\nx-ms-version:2021-08-06\\n/{account}/{account}/{container}\\nrestype:container'
mac = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
u.urlopen(u.Request(f'{url}/{account}/{container}?restype=container', method='PUT', headers={
    'x-ms-date': date, 'x-ms-version': '2021-08-06', 'Authorization': f'SharedKey {account}:{mac}'}))
";

#[tokio::test]
async fn a_container_of_azure_keeps_its_promises() {
    let listen = |port: u16, folder: &str| {
        let port = port.to_string();
        let words = [
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port,
            "--location",
            folder,
            "--silent",
        ];
        words.map(str::to_owned).to_vec()
    };
    let Some(azurite) = Emulator::start("PGCTL_TEST_AZURITE", listen) else {
        return;
    };
    python(MAKE_CONTAINER, &[&azurite.url(), AZURITE.0, AZURITE.1, "pgctl"]);
    let folder = tempfile::tempdir().expect("a folder");
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, AZURITE.1).expect("writable");
    let config = |container: &str| {
        let mut config = somewhere();
        config.azure = Some(Azure {
            container: container.to_owned(),
            prefix: "some/where".to_owned(),
            account: AZURITE.0.to_owned(),
            access_key_file: Some(key_file.clone()),
            endpoint: Some(format!("{}/{}", azurite.url(), AZURITE.0)),
        });
        config
    };
    keeps_its_promises(config("pgctl"), config("no-such-container")).await;
}

#[tokio::test]
async fn a_bucket_of_google_keeps_its_promises() {
    let store = ScriptedStore::start(Ipv4Addr::LOCALHOST).await.expect("a server");
    let config = |prefix: &str| {
        let mut config = somewhere();
        config.gcs = Some(Gcs {
            bucket: "pgctl".to_owned(),
            prefix: prefix.to_owned(),
            service_account_file: None,
            endpoint: Some(store.endpoint()),
            anonymous: true,
        });
        config
    };
    keeps_its_promises(config("some/where"), config("else/where")).await;
    assert!(
        store
            .keys()
            .iter()
            .all(|key| key.starts_with("pgctl/some/where/"))
    );
}

/// `gone` is where nothing was ever written.
async fn keeps_its_promises(config: RepositoryConfig, gone: RepositoryConfig) {
    let line = Line::new("demo", SystemId(77));
    let repository = Repository::open_to_write(&config, None)
        .await
        .expect("opens, and its probe passes");
    let history = |timeline: u32, text: &str| {
        let name = WalName::History(TimelineId(timeline));
        WalFileContent::check(name, SystemId(77), text.into()).expect("a history")
    };
    let source = Source {
        line: line.clone(),
        node: "n1".to_owned(),
        epoch: 1,
        now: String::new(),
        diverged: false,
    };
    let (first, second) = (history(2, "1\t0/500000\tx\n"), history(2, "1\t0/600000\tx\n"));
    let put = repository.put_wal(&first, &source).await.expect("put");
    assert!(matches!(put, Stored::Written(_)));
    assert_eq!(
        repository.put_wal(&first, &source).await.expect("again"),
        Stored::Already
    );
    let refused = repository.put_wal(&second, &source).await;
    assert!(matches!(refused, Err(Error::Different { .. })), "{refused:?}");
    let fetched = repository.get_wal(&line, first.name).await.expect("comes out");
    assert_eq!(fetched.header.hash, first.hash());
    let missing = repository.get_wal(&line, WalName::History(TimelineId(3))).await;
    assert!(missing.is_err_and(|error| error.is_missing()));
    let lines = repository.lines("demo").await.expect("lists");
    assert_eq!(lines, std::slice::from_ref(&line));
    let there = repository::inventory(&repository, &line).await.expect("lists");
    assert_eq!(there.histories.len(), 1);
    let verified = repository::verify(&repository, &line, None, None, |_, _| {})
        .await
        .expect("reads all of it");
    assert!(
        verified.findings.is_empty() && verified.objects >= 2,
        "{verified:?}"
    );
    // The same again, as another process would come upon it.
    let again = Repository::open_to_write(&config, Some(repository.id())).await;
    assert_eq!(again.expect("opens").id(), repository.id());

    let opened = Repository::open(&gone).await;
    assert!(
        opened.is_err_and(|error| !error.is_missing()),
        "a wrong place is no empty repository"
    );
}
