//! Whose settings are in force.

use crate::bench::{Node, PATIENCE, conf, credentials, on_each_version};
use agent::postgres::{Instance, PgError, ServerConf, StopMode};
use agent_core::pg::TimelineId;

#[test]
fn ours_win_over_the_operators_and_it_is_told_which() {
    on_each_version(|bench| async move {
        let mut config = bench.config("n1");
        for (name, value) in [
            ("wal_level", "minimal"),
            ("hot_standby", "off"),
            ("synchronous_commit", "off"),
            ("synchronous_standby_names", "*"),
            ("wal_keep_size", "1GB"),
            ("max_wal_senders", "2"),
            ("work_mem", "3MB"),
            ("log_line_prefix", "it's mine "),
        ] {
            config.parameters.insert(name.to_owned(), value.to_owned());
        }
        let node = Node::open(config);
        node.pg.initdb().await.unwrap();
        let auto = node.config.data_dir.join("postgresql.auto.conf");
        std::fs::write(
            &auto,
            "primary_slot_name = 'theirs'\nmaintenance_work_mem = '33MB'\n",
        )
        .unwrap();
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
        node.pg.promote(TimelineId(2), PATIENCE).await.unwrap();
        let show = async |name: &str| node.value(&format!("SHOW {name}")).await;
        assert_eq!(show("wal_level").await, "replica");
        assert_eq!(show("synchronous_commit").await, "on");
        assert_eq!(show("synchronous_standby_names").await, "");
        assert_eq!(show("primary_slot_name").await, "");
        assert_eq!(show("max_wal_senders").await, "16");
        assert_eq!(show("wal_keep_size").await, "1GB", "a larger one is kept");
        assert_eq!(show("work_mem").await, "3MB");
        assert_eq!(
            show("maintenance_work_mem").await,
            "33MB",
            "what is not ours stays as ALTER SYSTEM set it"
        );
        assert_eq!(show("log_line_prefix").await, "it's mine ");
        assert_eq!(show("cluster_name").await, "contract");
        assert_eq!(show("wal_retrieve_retry_interval").await, "100ms");

        let mut names: Vec<String> = node.pg.overridden().into_iter().map(|one| one.name).collect();
        names.sort();
        let expected = [
            "hot_standby",
            "max_wal_senders",
            "synchronous_commit",
            "synchronous_standby_names",
            "wal_level",
        ];
        assert_eq!(names, expected);
    });
}

#[test]
fn alter_system_cannot_take_the_synchronous_set_away() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let alter = primary
            .pg
            .run_sql("ALTER SYSTEM SET synchronous_standby_names = ''")
            .await;
        if bench_major(&primary) >= 17 {
            assert!(alter.is_err(), "ALTER SYSTEM is allowed");
            return;
        }
        alter.unwrap();
        let set = ServerConf {
            synchronous_standby_names: "ANY 1 (a, b)".to_owned(),
            ..conf(None)
        };
        assert!(primary.pg.reconfigure(&set).await.unwrap());
        assert_eq!(
            primary.value("SHOW synchronous_standby_names").await,
            "ANY 1 (a, b)"
        );
    });
}

#[test]
fn a_standby_starts_with_what_its_primary_had() {
    on_each_version(|bench| async move {
        let mut config = bench.config("n1");
        config
            .parameters
            .insert("max_connections".to_owned(), "77".to_owned());
        config
            .parameters
            .insert("max_prepared_transactions".to_owned(), "5".to_owned());
        let primary = Node::open(config);
        primary.pg.initdb().await.unwrap();
        primary.pg.start(&conf(None)).await.unwrap();
        primary.until_standby(|_| true).await;
        primary.pg.promote(TimelineId(2), PATIENCE).await.unwrap();
        primary.pg.ensure_roles().await.unwrap();
        let standby = bench.standby_of(&primary, "n2").await;
        assert_eq!(standby.value("SHOW max_connections").await, "77");
        assert_eq!(standby.value("SHOW max_prepared_transactions").await, "5");
        let told = standby.pg.overridden();
        assert!(
            told.iter()
                .any(|one| one.name == "max_connections" && one.user_value == "40"),
            "{told:?}"
        );
    });
}

#[test]
fn the_operators_access_rules_stay_and_ours_come_first() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        node.pg.initdb().await.unwrap();
        let path = node.config.data_dir.join("pg_hba.conf");
        std::fs::write(
            &path,
            "local all all reject\nhost all all all reject\n# the operator's\n",
        )
        .unwrap();
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
        node.pg.promote(TimelineId(2), PATIENCE).await.unwrap();
        assert_eq!(
            node.value("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL")
                .await,
            "0"
        );
        let content = std::fs::read_to_string(&path).unwrap();
        assert!(
            content.ends_with("local all all reject\nhost all all all reject\n# the operator's\n"),
            "{content}"
        );
        node.pg.ensure_roles().await.unwrap();
        let copy = bench.standby_of(&node, "n2").await;
        copy.until_streaming().await;
    });
}

#[test]
fn a_new_password_takes_effect() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2").await;
        let mut fresh = credentials();
        fresh.replication_password = "a new one".to_owned();
        primary.pg.set_credentials(fresh.clone());
        primary.pg.ensure_roles().await.unwrap();
        standby.pg.set_credentials(fresh);
        standby
            .pg
            .reconfigure(&conf(Some(primary.upstream("renamed"))))
            .await
            .unwrap();
        primary
            .until_primary(|view| view.standbys.iter().any(|one| one.application_name == "renamed"))
            .await;
        let log = std::fs::read_dir(primary.config.data_dir.with_file_name("data.log"))
            .unwrap()
            .flatten();
        for entry in log {
            let content = std::fs::read_to_string(entry.path()).unwrap();
            assert!(
                !content.contains("a new one") && !content.contains("SCRAM-SHA-256$"),
                "a secret is in the log"
            );
        }
    });
}

#[test]
fn a_superuser_is_never_given_our_password() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        primary
            .pg
            .run_sql("CREATE ROLE boss SUPERUSER LOGIN")
            .await
            .unwrap();
        for name in ["boss", "postgres"] {
            let mut wrong = credentials();
            wrong.rewind_user = name.to_owned();
            primary.pg.set_credentials(wrong);
            let error = primary.pg.ensure_roles().await.unwrap_err();
            assert!(matches!(error, PgError::RoleIsSuperuser { .. }), "{error}");
        }
    });
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    on_each_version(|bench| async move {
        let open = |change: &dyn Fn(&mut agent::postgres::InstanceConfig)| {
            let mut config = bench.config("n1");
            change(&mut config);
            Instance::open(config, credentials())
                .expect_err("it was taken")
                .to_string()
        };
        assert!(open(&|config| config.port = 0).contains("port"));
        assert!(open(&|config| config.data_dir = "data".into()).contains("absolute"));
        assert!(
            open(&|config| config.socket_dir = format!("/tmp/{}", "x".repeat(120)).into()).contains("longer")
        );
        assert!(open(&|config| config.os_user = Some("nobody-of-that-name".to_owned())).contains("no user"));
        assert!(
            open(&|config| config.hba = vec!["host all\nlocal all all trust".to_owned()]).contains("hba")
        );
        assert!(open(&|config| config.bin_dir = Some("/nowhere".into())).contains("/nowhere"));
        let injection = |config: &mut agent::postgres::InstanceConfig| {
            config
                .parameters
                .insert("a = 1\nfsync".to_owned(), "off".to_owned());
        };
        assert!(open(&injection).contains("letters"));
    });
}

#[test]
fn a_setting_that_waits_for_a_restart_is_told() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let mut config = node.config.clone();
        config
            .parameters
            .insert("max_locks_per_transaction".to_owned(), "111".to_owned());
        let changed = Node::open(config);
        changed.pg.adopt().await.expect("the running server");
        assert!(changed.pg.reconfigure(&conf(None)).await.unwrap());
        changed
            .until("waiting for a restart", |seen| {
                seen.pending_restart == ["max_locks_per_transaction"]
            })
            .await;
        changed.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
    });
}

fn bench_major(node: &Node) -> u32 {
    node.pg.version_num() / 10_000
}
