mod bodies;
mod rig;

use crate::cluster::Pause;
use crate::health::*;
use crate::pg::Lsn;
use crate::time::WallTime;
use crate::view::{PrimaryView, Receiver, Server, StandbyView};
use rig::*;

#[test]
fn a_serving_primary_answers_by_its_role() {
    for path in [
        "/",
        "/primary",
        "/read-write",
        "/master",
        "/primary/",
        "/leader",
        "/read-only",
        "/read-only-sync",
    ] {
        status(path, &serving(), 200);
    }
    for path in [
        "/read-only-quorum",
        "/health",
        "/liveness",
        "/readiness",
        "/patroni",
    ] {
        status(path, &serving(), 200);
    }
    for path in ["/replica", "/sync", "/async", "/quorum", "/standby-leader"] {
        status(path, &serving(), 503);
    }
}

#[test]
fn a_standby_of_the_synchronous_set_answers_by_its_role() {
    for path in [
        "/replica",
        "/sync",
        "/synchronous",
        "/quorum",
        "/read-only",
        "/read-only-sync",
        "/health",
        "/readiness",
    ] {
        status(path, &following(), 200);
    }
    for path in [
        "/",
        "/primary",
        "/read-write",
        "/leader",
        "/async",
        "/asynchronous",
    ] {
        status(path, &following(), 503);
    }
}

#[test]
fn a_standby_outside_of_the_set_is_asynchronous() {
    let outside = snapshot(N3, Server::Standby(standby_view()));
    for (path, expected) in [
        ("/async", 200),
        ("/replica", 200),
        ("/sync", 503),
        ("/read-only-sync", 503),
    ] {
        status(path, &outside, expected);
    }
}

#[test]
fn primary_closes_a_tenth_of_the_lease_before_its_end_and_stays_closed() {
    let lease = Duration::from_secs(2);
    assert_eq!(ask("/primary", &serving(), later(lease * 8 / 10)).0, 200);
    primary_refused(&serving(), later(lease * 9 / 10), "lease-is-held");
    primary_refused(&serving(), later(lease * 100), "lease-is-held");
}

#[test]
fn primary_closes_as_soon_as_one_of_the_two_clocks_says_so() {
    for reading in [
        ClockReading {
            boot_ns: NOW.reading.boot_ns + 2_000_000_000,
            ..NOW.reading
        },
        ClockReading {
            raw_ns: NOW.reading.raw_ns + 2_000_000_000,
            ..NOW.reading
        },
    ] {
        primary_refused(&serving(), Instants { reading, ..NOW }, "lease-is-held");
    }
}

#[test]
fn primary_is_refused_for_each_condition_by_its_name() {
    let good = serving();
    primary_refused(
        &HealthSnapshot {
            lease: None,
            ..good.clone()
        },
        NOW,
        "lease-is-held",
    );
    primary_refused(
        &HealthSnapshot {
            gate_open: false,
            ..good.clone()
        },
        NOW,
        "client-gate-is-open",
    );
    primary_refused(
        &HealthSnapshot {
            fencing: true,
            ..good.clone()
        },
        NOW,
        "not-fencing",
    );
    primary_refused(
        &HealthSnapshot {
            probe: None,
            ..good.clone()
        },
        NOW,
        "probe-is-fresh",
    );
    let read_only = Server::Primary(PrimaryView {
        read_only: true,
        ..primary_view()
    });
    let with = |server| HealthSnapshot {
        probe: Some(Probe {
            at: NOW.mono,
            pg: observed(server),
        }),
        ..good.clone()
    };
    primary_refused(&with(read_only), NOW, "server-takes-writes");
    primary_refused(&with(Server::Standby(standby_view())), NOW, "server-is-primary");
    primary_refused(&with(Server::Down), NOW, "server-is-primary");
}

#[test]
fn a_lease_of_an_older_epoch_or_of_another_holder_counts_for_nothing() {
    let good = serving();
    let newer = ClusterState {
        epoch: Epoch(6),
        ..state()
    };
    primary_refused(
        &HealthSnapshot {
            state: Arc::new(newer),
            ..good.clone()
        },
        NOW,
        "lease-is-held",
    );
    let other = ClusterState {
        holder: Some(N2),
        ..state()
    };
    primary_refused(
        &HealthSnapshot {
            state: Arc::new(other),
            ..good
        },
        NOW,
        "lease-is-held",
    );
}

#[test]
fn answers_decay_when_the_server_is_no_longer_looked_at() {
    let soon = later(Duration::from_secs(3));
    let late = later(Duration::from_millis(3_001));
    // The lease is renewed all the time: only the driver and the server hang.
    let renewed = HealthSnapshot {
        lease: Some(HeldLease {
            epoch: Epoch(5),
            deadline: late.reading.plus(Duration::from_secs(2)),
        }),
        ..serving()
    };
    assert_eq!(ask("/primary", &renewed, soon).0, 200);
    primary_refused(&renewed, late, "probe-is-fresh");
    for path in [
        "/replica",
        "/sync",
        "/read-only",
        "/health",
        "/liveness",
        "/readiness",
    ] {
        assert_eq!(ask(path, &following(), soon).0, 200, "{path}");
        assert_eq!(ask(path, &following(), late).0, 503, "{path}");
    }
}

#[test]
fn liveness_is_not_taken_away_from_who_paused() {
    let paused = ClusterState {
        pause: Some(Pause {
            reason: "work on the racks".to_owned(),
            since: WallTime(0),
        }),
        ..state()
    };
    let snapshot = HealthSnapshot {
        state: Arc::new(paused),
        ..following()
    };
    assert_eq!(
        ask("/liveness", &snapshot, later(Duration::from_secs(3600))).0,
        200
    );
}

#[test]
fn a_standby_that_lags_is_refused_by_the_bound_that_is_asked_for() {
    for (request, expected) in [
        ("/replica?lag=256", 200),
        ("/replica?lag=255", 503),
        ("/replica?lag=1MB", 200),
        ("/read-only?lag=255", 503),
        ("/async?lag=0", 503),
        ("/readiness?lag=255", 503),
        ("/readiness?lag=255&mode=write", 200),
    ] {
        status(request, &following(), expected);
    }
    status("/read-only?lag=0", &serving(), 200);
}

#[test]
fn the_lag_counts_from_the_furthest_end_that_was_heard_of() {
    let mut behind = standby_view();
    behind.receiver = Some(Receiver {
        streaming: true,
        latest_end: Lsn(0x9000),
    });
    status("/replica?lag=1000", &snapshot(N2, Server::Standby(behind)), 503);
}

#[test]
fn an_unknown_lag_is_within_no_bound() {
    let deaf = StandbyView {
        receiver: None,
        ..standby_view()
    };
    let snapshot = HealthSnapshot {
        view: Arc::new(ClusterView::default()),
        ..snapshot(N2, Server::Standby(deaf))
    };
    status("/replica?lag=1TB", &snapshot, 503);
    status("/replica", &snapshot, 200);
    status("/replica?replication_state=streaming", &snapshot, 503);
    status("/sync", &snapshot, 503);
    status("/readiness", &snapshot, 503);
}

#[test]
fn tags_choose_among_the_nodes() {
    status("/replica?tag_zone=a", &following(), 200);
    status("/replica?tag_zone=b", &following(), 503);
    status("/primary?tag_zone=a", &serving(), 200);
    status("/primary?tag_rack=1", &serving(), 503);
    let mut kept_out = state();
    kept_out
        .members
        .get_mut(&N2)
        .expect("a member")
        .tags
        .insert("noloadbalance".to_owned(), "true".to_owned());
    let snapshot = HealthSnapshot {
        state: Arc::new(kept_out),
        ..following()
    };
    status("/replica", &snapshot, 503);
    status("/health", &snapshot, 200);
}

#[test]
fn a_witness_is_alive_and_nothing_else() {
    let witness = HealthSnapshot {
        node: W4,
        probe: None,
        name: "w4".to_owned(),
        ..following()
    };
    for (path, expected) in [
        ("/primary", 503),
        ("/replica", 503),
        ("/health", 503),
        ("/liveness", 200),
        ("/readiness", 200),
    ] {
        status(path, &witness, expected);
    }
    assert_eq!(ask("/patroni", &witness, NOW).1["role"], "witness");
}

#[test]
fn the_percentile_of_log_writes_is_one_of_them() {
    let ms = Duration::from_millis;
    assert_eq!(LogWrites::of([]), None);
    let few = LogWrites::of([ms(9), ms(4)]).expect("two writes");
    assert_eq!((few.last, few.p99), (ms(4), ms(9)));
    let many = LogWrites::of((1..=200).map(ms)).expect("writes");
    assert_eq!((many.last, many.p99), (ms(200), ms(198)));
}
