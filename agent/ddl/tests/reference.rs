//! `docs/ddl-rules.md` is what the rules say.

use std::path::Path;

#[test]
fn reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ddl-rules.md");
    let page = ddl::rules::reference();
    if std::env::var_os("PGCTL_BLESS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/ddl-rules.md is not what the rules say: renew it as its second line tells"
    );
}
