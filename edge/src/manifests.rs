//! Manifests on disk: loaded at the start, read again when a file changes. What breaks keeps its last good form.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crds::manifest::{Loaded, MAX_FILES, ObjectKey, Problem, Snapshot, Sourced, load};
use crds::v1alpha1::{BackendKind, McpAgent, SessionStore, SipDomain, SipEdge};

/// How often the files are looked at.
pub const POLL: Duration = Duration::from_millis(250);
/// Looks without a further change before the files are read, so that a copy in progress is not read half; and how often at most.
const SETTLE: u32 = 1;
const SETTLE_AT_MOST: u32 = 8;

/// The manifests of this process and what was last good of them.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    good: Snapshot,
    seen: Fingerprint,
    /// Changed since the last read: looks since the first change, looks since the last one.
    changed: Option<(u32, u32)>,
}

/// What a change of any file changes.
type Fingerprint = BTreeMap<PathBuf, Option<(SystemTime, u64, u64)>>;

impl Manifests {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Manifests { paths, good: Snapshot::default(), seen: Fingerprint::new(), changed: None }
    }

    /// Reads everything. Objects that are broken now stand as they last were good.
    pub fn read(&mut self) -> Loaded {
        // Taken before the files are read: a change in between is seen at the next look.
        self.seen = fingerprint(&self.paths);
        self.changed = None;
        let mut loaded = load(&self.paths);
        keep_last_good(&self.good, &mut loaded);
        self.good = loaded.objects.clone();
        loaded
    }

    /// Looks at the files. True: they changed and hold still, so [`Manifests::read`] is due.
    pub fn look(&mut self) -> bool {
        let now = fingerprint(&self.paths);
        if now != self.seen {
            self.seen = now;
            let (first, _) = self.changed.unwrap_or((0, 0));
            self.changed = Some((first + 1, 0));
        } else if let Some((first, last)) = &mut self.changed {
            *first += 1;
            *last += 1;
        }
        self.changed.is_some_and(|(first, last)| last >= SETTLE || first >= SETTLE_AT_MOST)
    }
}

fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    use std::os::unix::fs::MetadataExt;
    let mut files = Fingerprint::new();
    let mut add = |path: &Path| {
        let seen = fs::metadata(path).ok();
        let modified = |m: &fs::Metadata| m.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        files.insert(path.to_owned(), seen.map(|m| (modified(&m), m.len(), m.ino())));
    };
    for path in paths {
        // A directory's own time changes with files that nobody reads (an editor's, a log).
        if !path.is_dir() {
            add(path);
        }
        // One more than is ever read, so that a directory of any size costs a bounded look.
        for entry in fs::read_dir(path).into_iter().flatten().flatten().take(4 * MAX_FILES) {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
                add(&path);
            }
        }
    }
    files
}

/// Puts what the last good set had back in where it is missing now and its file has a problem. An object that was deleted from a file
/// without problems is gone, and so is an agent that a refused policy selects: nobody can tell what that would deny.
pub(crate) fn keep_last_good(good: &Snapshot, loaded: &mut Loaded) {
    let troubled: BTreeSet<&Path> = loaded.problems.iter().map(|problem| problem.file.as_path()).collect();
    let in_trouble = |file: &Path| troubled.contains(file) || file.parent().is_some_and(|dir| troubled.contains(dir));
    let (now, refused) = (&mut loaded.objects, &loaded.refused);
    let mut needs = BTreeSet::new();
    keep(&good.domains, &mut now.domains, &in_trouble, any, |_, domain| domain_needs(domain, &mut needs));
    keep(&good.edges, &mut now.edges, &in_trouble, any, |key, edge| edge_needs(key, edge, &mut needs));
    let domains = &now.domains;
    let open = |key: &ObjectKey, agent: &McpAgent| {
        let domain = domains.get(&agent.spec.address.domain_ref.name).map(|domain| &*domain.object);
        !refused.iter().any(|policy| policy.selects(key, agent, domain))
    };
    keep(&good.agents, &mut now.agents, &in_trouble, open, |key, agent| agent_needs(key, agent, &mut needs));
    keep(&good.policies, &mut now.policies, &in_trouble, any, |_, _| {});
    keep(&good.stores, &mut now.stores, &in_trouble, any, |key, store| store_needs(key, store, &mut needs));
    keep(&good.secrets, &mut now.secrets, &in_trouble, any, |_, _| {});
    keep(&good.config_maps, &mut now.config_maps, &in_trouble, any, |_, _| {});
    // What was kept was refused, perhaps for what it refers to: that comes back as it was, too.
    for key in &needs {
        if let Some(secret) = good.secrets.get(key) {
            now.secrets.insert(key.clone(), secret.clone());
        }
        if let Some(map) = good.config_maps.get(key) {
            now.config_maps.insert(key.clone(), map.clone());
        }
    }
}

fn any<K, T>(_: &K, _: &T) -> bool {
    true
}

fn keep<K: Ord + Clone, T>(
    good: &BTreeMap<K, Sourced<T>>,
    now: &mut BTreeMap<K, Sourced<T>>,
    in_trouble: &impl Fn(&Path) -> bool,
    may: impl Fn(&K, &T) -> bool,
    mut kept: impl FnMut(&K, &T),
) {
    for (key, object) in good {
        if !now.contains_key(key) && in_trouble(&object.origin.file) && may(key, object) {
            now.insert(key.clone(), object.clone());
            kept(key, object);
        }
    }
}

fn domain_needs(domain: &SipDomain, needs: &mut BTreeSet<ObjectKey>) {
    let authentication = &domain.spec.authentication;
    let users = authentication.digest.as_ref().map(|digest| &digest.users_secret_ref);
    let bundle = authentication.client_certificates.as_ref().map(|certificates| &certificates.ca_bundle_ref);
    let keys = domain.spec.data_protection.key_secret_ref.as_ref();
    needs.extend(users.into_iter().chain(bundle).chain(keys).map(|r| ObjectKey::new(&r.namespace, &r.name)));
}

fn store_needs(key: &ObjectKey, store: &SessionStore, needs: &mut BTreeSet<ObjectKey>) {
    let Some(redis) = &store.spec.redis else { return };
    let bundle = redis.tls.as_ref().map(|tls| &tls.ca_bundle_ref);
    needs.extend(bundle.into_iter().chain(&redis.auth_secret_ref).map(|r| ObjectKey::new(&key.namespace, &r.name)));
}

fn edge_needs(key: &ObjectKey, edge: &SipEdge, needs: &mut BTreeSet<ObjectKey>) {
    let certificates = edge.spec.listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| &tls.certificate_refs);
    needs.extend(certificates.map(|reference| ObjectKey::new(&key.namespace, &reference.name)));
}

fn agent_needs(key: &ObjectKey, agent: &McpAgent, needs: &mut BTreeSet<ObjectKey>) {
    if let Some(BackendKind::McpHttp(http)) = agent.spec.backend.kind() {
        let bundle = http.tls.as_ref().map(|tls| &tls.ca_bundle_ref);
        needs.extend(bundle.into_iter().chain(&http.credential_ref).map(|r| ObjectKey::new(&key.namespace, &r.name)));
    }
}

/// Why no edge can be chosen; a matter of the command line or of the manifests.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEdge {
    #[error("no SipEdge in the manifests ({0}); add one (crds/examples/edge.yaml is a start)")]
    None(String),
    #[error("several SipEdges in the manifests; say which one with --edge: {0}")]
    Several(String),
    #[error("no SipEdge {wanted} in the manifests; there is: {there}")]
    Missing { wanted: String, there: String },
}

/// The SipEdge that this process is.
///
/// # Errors
/// When the manifests do not say which.
pub fn choose_edge(objects: &Snapshot, wanted: Option<&str>, paths: &[PathBuf]) -> Result<ObjectKey, NoEdge> {
    let there = || objects.edges.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let fits = |key: &&ObjectKey| match wanted {
        Some(wanted) => key.name == wanted || key.to_string() == wanted,
        None => true,
    };
    let mut fitting = objects.edges.keys().filter(fits);
    match (fitting.next(), fitting.next(), wanted) {
        (Some(key), None, _) => Ok(key.clone()),
        (Some(_), Some(_), _) => Err(NoEdge::Several(there())),
        (None, _, Some(wanted)) if !objects.edges.is_empty() => {
            Err(NoEdge::Missing { wanted: wanted.to_owned(), there: there() })
        }
        (None, _, _) => {
            Err(NoEdge::None(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")))
        }
    }
}

/// A problem as `/status` shows it.
#[must_use]
pub fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str =
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {name: demo}\nspec: {domain: demo.example}\n";
    const AGENT: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {name: echo}
spec:
  address: {user: echo, domainRef: {name: demo}}
  backend: {mcpHttp: {url: \"http://127.0.0.1:1/mcp\"}}
  capabilities: {source: Discovered}
";
    const POLICY: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: everybody}
spec:
  targetRefs: [{kind: SipDomain, name: demo}]
  rules: [{name: everybody, from: [{anonymous: {}}], action: Allow}]
";

    #[test]
    fn sec_6_what_a_refused_policy_selects_is_not_kept_whatever_else_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let [broken_agent, broken_policy] = [AGENT, POLICY].map(|text| text.replace("spec:", "spec:\n  colour: red"));
        write("domain.yaml", DOMAIN);
        write("agent.yaml", AGENT);
        write("policy.yaml", POLICY);
        let mut manifests = Manifests::new(vec![folder.path().to_owned()]);
        let mut read = || {
            let Loaded { objects, problems, .. } = manifests.read();
            (objects.domains.len(), objects.agents.len(), objects.policies.len(), problems.is_empty())
        };
        assert_eq!(read(), (1, 1, 1, true));
        write("agent.yaml", &broken_agent);
        assert_eq!(read(), (1, 1, 1, false), "as it last was");
        // Each way in which the agent would have been kept: a fault of its own, of its domain, and none but the policy's.
        write("policy.yaml", &broken_policy);
        assert_eq!(read().1, 0);
        write("agent.yaml", AGENT);
        assert_eq!(read().1, 0);
        write("policy.yaml", POLICY);
        assert_eq!(read(), (1, 1, 1, true));
        write("policy.yaml", &broken_policy);
        assert_eq!(read().1, 0);
        write("policy.yaml", POLICY);
        assert_eq!(read(), (1, 1, 1, true));
        write("policy.yaml", &broken_policy);
        write("domain.yaml", "{{{");
        assert_eq!((read().0, read().1), (1, 0));
        // Whose targets cannot be told is for every agent of its namespace; whose name cannot, for every agent.
        write("domain.yaml", DOMAIN);
        write("policy.yaml", POLICY);
        assert_eq!(read(), (1, 1, 1, true));
        write("policy.yaml", &POLICY.replace("[{kind: SipDomain, name: demo}]", "7"));
        assert_eq!(read().1, 0);
        write("policy.yaml", POLICY);
        assert_eq!(read(), (1, 1, 1, true));
        write("policy.yaml", "kind: McpCapabilityPolicy\n  {{{");
        assert_eq!(read().1, 0);
    }
}
