//! The store that the manifests name, and what an answer waits for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crds::core_v1::keys::state_keys;
use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use crds::v1alpha1::{EmbeddedStore, NamespacedRef, RedisStore, RedisTopology, SessionStore, StoreKind};
use crds::validate::references::{CA_KEY, PASSWORD_KEY, USERNAME_KEY};
use edge_core::lease::Membership;
use edge_core::names;
use edge_core::random::keyed_hash;
use session_store::Durability;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::{SealKey, SealKeys, Sealer};
use session_store_file::StoreFile;
use session_store_redis::{RedisConfig, TlsConfig, Topology};
use zeroize::Zeroizing;

use super::Builder;
use crate::store::Store;

/// Where what a call must not lose is kept.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// In this process.
    Memory,
    /// In a file of this process.
    File(PathBuf),
    /// Shared with other edges.
    Redis(Box<RedisConfig>),
}

impl Wanted {
    /// What `SipEdge.spec.sessionStoreRef` leads to.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn of(objects: &Snapshot, key: &ObjectKey) -> Result<Self, Problem> {
        let Some(edge) = objects.edges.get(key) else { return Ok(Wanted::Memory) };
        let Some(reference) = &edge.spec.session_store_ref else { return Ok(Wanted::Memory) };
        let field = "spec.sessionStoreRef";
        let store = objects.store_of(key, edge).ok_or_else(|| {
            edge.origin.problem(field, format!("there is no usable SessionStore {}/{}", key.namespace, reference.name))
        })?;
        match store.spec.kind() {
            Some(StoreKind::Memory) => Ok(Wanted::Memory),
            Some(StoreKind::File(file)) => Ok(Wanted::File(file.path.clone().into())),
            Some(StoreKind::Redis(redis)) => Ok(Wanted::Redis(Box::new(config(objects, key, store, redis)?))),
            None => Err(store.origin.problem("spec", "give exactly one of redis and embedded")),
        }
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Wanted::Memory => "memory".to_owned(),
            Wanted::File(path) => path.display().to_string(),
            Wanted::Redis(config) => match &config.topology {
                Topology::Single { address } => format!("Redis at {address}"),
                Topology::Sentinel { addresses, master } => {
                    format!("Redis, primary {master:?} of the sentinels {}", addresses.join(", "))
                }
                Topology::Cluster { addresses } => format!("Redis Cluster at {}", addresses.join(", ")),
            },
        }
    }

    /// Whether other edges use it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Wanted::Redis(_))
    }
}

fn config(
    objects: &Snapshot,
    key: &ObjectKey,
    store: &Sourced<SessionStore>,
    redis: &RedisStore,
) -> Result<RedisConfig, Problem> {
    let addresses = redis.addresses.clone();
    let topology = match (redis.topology, &redis.master_name, &addresses[..]) {
        (RedisTopology::Single, _, [address, ..]) => Topology::Single { address: address.clone() },
        (RedisTopology::Sentinel, Some(master), _) => Topology::Sentinel { addresses, master: master.clone() },
        (RedisTopology::Cluster, ..) => Topology::Cluster { addresses },
        // The reader of the manifests has refused it before.
        _ => return Err(store.origin.problem("spec.redis", "an address, or the masterName of Sentinel, is missing")),
    };
    let mut config = RedisConfig::new(topology, &redis.key_prefix);
    config.heartbeat_timeout = Duration::from_millis(super::lease(objects, key).answer_ms());
    let missing = |field: &str, what: String| store.origin.problem(field, format!("there is no {what}"));
    if let Some(reference) = &redis.auth_secret_ref {
        let name = ObjectKey::new(&key.namespace, &reference.name);
        let field = "spec.redis.authSecretRef";
        let secret = objects.secrets.get(&name).ok_or_else(|| missing(field, format!("Secret {name}")))?;
        let text = |key: &str| -> Option<Zeroizing<String>> {
            std::str::from_utf8(secret.get(key)?).ok().map(|text| Zeroizing::new(text.trim().to_owned()))
        };
        config.password = text(PASSWORD_KEY);
        config.username = text(USERNAME_KEY).map(|text| (*text).clone());
        if redis.topology == RedisTopology::Sentinel {
            config.sentinel_password = config.password.clone();
            config.sentinel_username = config.username.clone();
        }
    }
    if let Some(tls) = &redis.tls {
        let name = ObjectKey::new(&key.namespace, &tls.ca_bundle_ref.name);
        let bundle = objects.config_maps.get(&name).and_then(|map| map.data.get(CA_KEY));
        let field = "spec.redis.tls.caBundleRef";
        let bundle = bundle.ok_or_else(|| missing(field, format!("ConfigMap {name} with {CA_KEY}")))?;
        config.tls = Some(TlsConfig { roots: bundle.as_bytes().to_vec(), client: None });
    }
    Ok(config)
}

/// Where a store is, as the manifests say it.
pub(super) type StoreSpec = (Option<RedisStore>, Option<EmbeddedStore>);

impl Builder {
    /// The store of a process stays while it lives: what it holds belongs to that one. Only the way to a shared store may change.
    pub(super) fn other_store(&mut self, objects: &Snapshot) -> Option<Problem> {
        let edge = objects.edges.get(&self.edge)?;
        let named = objects.store_of(&self.edge, edge);
        let now = named.map(|store| (store.spec.redis.clone(), store.spec.embedded.clone())).unwrap_or_default();
        let stays = match (self.store.get_or_insert_with(|| now.clone()), &now) {
            ((Some(began), None), (Some(now), None)) => began.key_prefix == now.key_prefix,
            (began, now) => began == now,
        };
        let message = "leads to another store; this process goes on with the one that it began with: restart it";
        (!stays).then(|| edge.origin.problem("spec.sessionStoreRef", message))
    }

    /// Another way to the store of this process, where the manifests name one now: opened, and found to lead to the same content.
    /// `Ok(None)`: the way is as it was, or leads to another store altogether.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn another_way(
        &self,
        objects: &Snapshot,
        store: &Store,
        known: &RedisConfig,
        member: &Membership,
    ) -> Result<Option<(RedisConfig, Store)>, Problem> {
        let config = match Wanted::of(objects, &self.edge)? {
            Wanted::Redis(config) if config.key_prefix == known.key_prefix && !config.leads_alike(known) => *config,
            _ => return Ok(None),
        };
        let wrong = |message: &str| {
            let named = objects.edges.get(&self.edge).and_then(|edge| objects.store_of(&self.edge, edge));
            match named {
                Some(store) => store.origin.problem("spec.redis", message),
                None => self.problem(objects, "spec.sessionStoreRef", message),
            }
        };
        let goes_on = "this process goes on with the store as it reached it before";
        let not_now = |why: &str| wrong(&format!("{why}; {goes_on}"));
        let other = store.by_another_way(config.clone(), self.sealer(objects)?).await.map_err(|why| not_now(&why))?;
        match generation(&other, member).await {
            Ok(Some(generation)) if generation == member.generation => {}
            // Edges that read this at different times would each have a truth of their own.
            Ok(_) => return Err(wrong(&format!("leads to another store; {goes_on}: restart it"))),
            Err(why) => return Err(not_now(&why)),
        }
        self.secure(&other, objects).await?;
        Ok(Some((config, other)))
    }

    /// What seals and opens records: a domain's own keys where it has some, else keys made of the edges' token keys, so that both rotate
    /// together.
    ///
    /// # Errors
    /// A Secret of a domain that cannot be used. The reader of the manifests has refused it before.
    pub fn sealer(&self, objects: &Snapshot) -> Result<Sealer, Problem> {
        let keys = self.keys();
        let default = keys.token_keys.iter().map(|key| derived(key.kid, &*key.mac, RECORDS)).collect();
        let default = SealKeys::new(default).map_err(|error| self.problem(objects, "", &error.to_string()))?;
        let mut sealer = Sealer::new(default, keys.naming);
        for object in objects.domains.values() {
            let Some(NamespacedRef { namespace, name }) = &object.spec.data_protection.key_secret_ref else { continue };
            let Some(tenant) = self.tenants.get(&object.spec.domain.to_ascii_lowercase()) else { continue };
            let wrong = |message: String| object.origin.problem("spec.dataProtection.keySecretRef", message);
            let secret = objects.secrets.get(&ObjectKey::new(namespace, name));
            let secret = secret.ok_or_else(|| wrong(format!("there is no Secret {namespace}/{name}")))?;
            let keys = state_keys(secret).map_err(|error| wrong(error.message))?;
            let keys = keys.iter().map(|key| derived(key.kid, key.octets.as_bytes(), RECORDS)).collect();
            sealer = sealer.with_tenant(*tenant, SealKeys::new(keys).map_err(|error| wrong(error.to_string()))?);
        }
        Ok(sealer)
    }

    /// Gives the store the keys and the durability of all tenants.
    ///
    /// # Errors
    /// Keys that cannot be used, or a class that the store cannot give.
    pub async fn secure(&self, store: &Store, objects: &Snapshot) -> Result<(), Problem> {
        store.set_sealer(self.sealer(objects)?);
        let mut classes = BTreeMap::new();
        for object in objects.domains.values() {
            if let Some(tenant) = self.tenants.get(&object.spec.domain.to_ascii_lowercase()) {
                classes.insert(*tenant, class(object.spec.durability));
            }
        }
        store.set_durability(classes).await.map_err(|message| {
            let highest = objects.domains.values().max_by_key(|object| object.spec.durability);
            match highest {
                Some(object) => object.origin.problem("spec.durability", message),
                None => self.problem(objects, "spec.sessionStoreRef", &message),
            }
        })
    }

    /// Takes the numbers that a store file has: its records cannot be read without.
    ///
    /// # Errors
    /// As [`StoreFile::tenants`].
    pub fn numbers_of(&mut self, file: &StoreFile, objects: &Snapshot) -> Result<(), String> {
        let sealer = self.sealer(objects).map_err(|problem| problem.to_string())?;
        let known = file.tenants(&sealer).map_err(|error| error.to_string())?;
        let naming = self.keys().naming;
        for domain in self.unnumbered(objects) {
            if let Some(tenant) = known.get(&names::domain(&*naming, &domain)) {
                self.numbered(domain, *tenant);
            }
        }
        Ok(())
    }

    /// Asks the store for the numbers of domains that have none yet: each is given once, and never twice.
    ///
    /// # Errors
    /// What the store says.
    pub async fn number(&mut self, store: &Store, objects: &Snapshot) -> Result<(), StoreError> {
        let naming = self.keys().naming;
        for domain in self.unnumbered(objects) {
            let hash = names::domain(&*naming, &domain);
            match store.execute(StoreOp::TenantNumber { domain: hash }).await? {
                StoreReply::Tenant(tenant) => self.numbered(domain, tenant),
                other => {
                    let reason = format!("an answer to something else instead of a tenant number: {other:?}");
                    return Err(StoreError::Unreadable { reason });
                }
            }
        }
        Ok(())
    }
}

/// The name of what a store holds; `None`: nothing of this life of ours.
async fn generation(store: &Store, member: &Membership) -> Result<Option<[u8; 16]>, String> {
    // It renews nothing: what was granted before is longer.
    const NO_LEASE: u64 = 1;
    let own = member.pods.iter().find(|pod| pod.owner == member.owner);
    let (address, draining) = own.map(|pod| (pod.address.clone(), pod.draining)).unwrap_or_default();
    let owner = member.owner;
    let renewal = StoreOp::Heartbeat { owner, address: address.clone(), lease_ms: NO_LEASE, draining };
    match store.execute_heartbeat(renewal).await.map_err(|error| error.to_string())? {
        StoreReply::Pods { generation, .. } => return Ok(Some(generation)),
        // The lease ended, there or while the old way was closed: a further epoch tells whether it is the same content.
        StoreReply::Fenced => {}
        _ => return Ok(None),
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let epoch = StoreOp::TakeEpoch {
        pod: owner.pod,
        boot: owner.boot,
        last_epoch: owner.epoch,
        address,
        lease_ms: NO_LEASE,
        generation: random,
    };
    match store.execute_heartbeat(epoch).await.map_err(|error| error.to_string())? {
        StoreReply::Epoch { generation, .. } => Ok(Some(generation)),
        _ => Ok(None),
    }
}

/// `SipDomain.spec.durability` as the store calls it.
pub(super) fn class(class: crds::v1alpha1::Durability) -> Durability {
    match class {
        crds::v1alpha1::Durability::Memory => Durability::Memory,
        crds::v1alpha1::Durability::Replica => Durability::Replica,
        crds::v1alpha1::Durability::Fsync => Durability::Fsync,
    }
}

/// What [`derived`] keys are for: records in the store.
const RECORDS: &str = "sealing key of records";

/// A sealing key of 32 octets from other key material, for one purpose.
pub(crate) fn derived(kid: u8, material: &[u8], purpose: &str) -> SealKey {
    let mut siv = Zeroizing::new([0; 32]);
    for (half, number) in siv.chunks_exact_mut(16).zip([0_u8, 1]) {
        half.copy_from_slice(&keyed_hash(material, purpose, &[&[number]]));
    }
    SealKey::new(kid, siv)
}
