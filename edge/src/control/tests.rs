use super::*;
use edge_api::control::{Delta, Upsert};
use std::fs;
use std::path::Path;
use tokio::time::timeout;

/// Without anybody there. The file of the configuration is to be in `folder/state`.
fn operator(folder: &Path) -> Operator {
    let keys = folder.join("keys");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("1"), [7; 64]).unwrap();
    let edge = ObjectKey::new("acme", "edge");
    let settings = Settings {
        operator: "127.0.0.1:9".into(),
        name: "operator".into(),
        authority: folder.join("ca.crt"),
        token: folder.join("token"),
        cache: Some(Cache { file: folder.join("state/config"), keys, edge: edge.clone() }),
        edge,
        pod: "edge-0".into(),
        report_every: Duration::from_secs(3600),
        cold_start: Duration::ZERO,
    };
    Operator::start(settings, Reporter { parts: Arc::default(), status: Arc::default() })
}

/// Takes an object and everything that there is.
fn given(operator: &mut Operator, version: &str) {
    let key = Key::new(Kind::Namespace, ObjectKey::new("", "acme")).to_message();
    let json = r#"{"metadata":{"name":"acme"}}"#.into();
    let upsert = Upsert { key: Some(key), version: version.into(), json, ..Upsert::default() };
    let delta = Delta { upserts: vec![upsert], initial_done: true, ..Delta::default() };
    operator.shared.with(|state| {
        state.held.take(delta);
        state.complete = true;
    });
    operator.read();
    operator.applied(&[], &[]);
}

/// The version of the one object that is in the file.
fn kept(operator: &Operator) -> Option<String> {
    let kept = operator.shared.settings.cache.as_ref().unwrap().read().ok()??;
    Some(kept.held.versions().first()?.version.clone())
}

async fn appears(operator: &Operator, version: &str) {
    let there = async {
        while kept(operator).as_deref() != Some(version) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), there).await.expect("the file in time");
}

#[tokio::test]
async fn what_could_not_be_kept_is_kept_once_that_works_though_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path());
    // Without the folder of the file nothing can be written.
    given(&mut operator, "1");
    let watch = operator.watch();
    let told = async {
        while watch.standing().not_kept.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), told).await.expect("it is said");
    fs::create_dir(folder.path().join("state")).unwrap();
    appears(&operator, "1").await;
    assert_eq!(watch.standing().not_kept, "");
}

#[tokio::test]
async fn what_changed_last_is_kept_when_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    let mut operator = operator(folder.path());
    given(&mut operator, "1");
    appears(&operator, "1").await;
    // The next write is a moment away.
    given(&mut operator, "2");
    operator.finish().await;
    assert_eq!(kept(&operator).as_deref(), Some("2"));
}

#[test]
fn a_domain_that_is_kept_and_cannot_be_read_has_the_number_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("1"), [7; 64]).unwrap();
    let cache = Cache { file: folder.path().join("config"), keys, edge: ObjectKey::new("acme", "edge") };
    let key = Key::new(Kind::SipDomain, ObjectKey::new("", "d")).to_message();
    let mut held = Held::default();
    for (spec, tenant) in
        [(r#"{"domain":"D.example"}"#, Some(7)), (r#"{"domain":"d.example","authentication":"none"}"#, None)]
    {
        let json = format!(
            r#"{{"apiVersion":"sipmcp.dev/v1alpha1","kind":"SipDomain","metadata":{{"name":"d"}},"spec":{spec}}}"#
        );
        let upsert = Upsert { key: Some(key.clone()), version: spec.into(), json: json.into(), tenant };
        held.take(Delta { upserts: vec![upsert], ..Delta::default() });
    }
    cache.write(held.kept()).unwrap();
    let kept = cache.read().unwrap().unwrap();
    assert!(kept.held.judge().objects.domains.is_empty() && kept.good.domains.contains_key("d"));
    assert_eq!(kept.held.tenants(), [("d.example".to_owned(), 7)].into());
}
