//! The same promises on a bucket. Needs a server that speaks S3 and an empty bucket:
//!
//! ```text
//! moto_server -p 5555 &  curl -X PUT http://127.0.0.1:5555/pgctl
//! PGCTL_TEST_S3=http://127.0.0.1:5555/pgctl cargo test -p repository --test s3
//! ```

#![cfg(feature = "s3")]

use agent_core::pg::{SystemId, TimelineId};
use repository::{Error, Line, Repository, RepositoryConfig, S3, Source, Stored, WalFileContent, WalName};

fn config() -> Option<RepositoryConfig> {
    let url = std::env::var("PGCTL_TEST_S3").ok()?;
    let (endpoint, bucket) = url.rsplit_once('/')?;
    let mut config = RepositoryConfig::directory("bucket", "/");
    config.path = None;
    config.s3 = Some(S3 {
        bucket: bucket.to_owned(),
        prefix: format!("run-{}", std::process::id()),
        region: Some("us-east-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        access_key_id: Some("test".to_owned()),
        secret_access_key: Some("test".to_owned()),
    });
    Some(config)
}

#[tokio::test]
async fn a_bucket_keeps_what_was_put_first_and_knows_what_is_missing() {
    let Some(config) = config() else {
        eprintln!("SKIPPED: PGCTL_TEST_S3 names no bucket");
        return;
    };
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

    let mut gone = config.clone();
    if let Some(s3) = &mut gone.s3 {
        "no-such-bucket".clone_into(&mut s3.bucket);
    }
    let opened = Repository::open(&gone).await;
    assert!(
        opened.is_err_and(|error| !error.is_missing()),
        "a wrong bucket is no empty repository"
    );
}
