//! REG-4, REG-5: agents that register themselves through the Service of the fleet get times of their class.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::reach::{Way, reaches};
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{EDGE, Fleet, Tenant, USER, v1alpha1};
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::phone::Phone;

const PORT: u16 = 5060;
const LIMIT: Duration = Duration::from_secs(20);
/// Profile, and the shortest and longest time of its class in seconds (kubernetes §3.7).
const CLASSES: [(&str, u32, u32); 4] =
    [("Ephemeral", 60, 300), ("Production", 1800, 7200), ("Pool", 300, 900), ("Federated", 600, 1800)];
/// Members of a pool that come at one time, each with a Contact of its own.
const MEMBERS: usize = 10;

/// A fleet with one agent of each class, and their common Service, where this machine has a way to it.
async fn fleet(space: &Space<'_>) -> Fallible<Option<Way>> {
    space.world.installed().await?;
    space.begin(Security::Restricted).await?;
    let users = CLASSES.iter().map(|(profile, ..)| profile.to_lowercase()).collect();
    let tenant = Tenant { users, ..Tenant::new(space, true) };
    space.apply_all(&tenant.objects(space)).await?;
    space.edges(&Fleet::of(2, &[("TCP", PORT)])).await?;
    for (profile, ..) in CLASSES {
        let user = profile.to_lowercase();
        let agent = json!({
            "address": {"user": user, "domainRef": {"name": space.own(tenant.name)}},
            "parentRefs": [{"kind": "SipEdge", "name": EDGE}],
            "backend": {"sipContact": {"authentication": "Digest"}},
            "capabilities": {"source": "Declared", "tools": [{"name": "answer"}]},
            "registration": {"profile": profile},
        });
        space.apply(&v1alpha1("McpAgent", &user, agent)).await?;
        space.comes("McpAgent", &user, "Programmed", "True", None).await?;
    }
    let ip: IpAddr = space.cluster_ip(EDGE).await?.parse().map_err(|_| "the Service's address is none".to_owned())?;
    let service = SocketAddr::new(ip, PORT);
    let found = until("the Service", LIMIT, || async {
        if reaches(service).await { Ok(()) } else { Err(format!("{service} is not reached")) }
    })
    .await;
    Ok(found.is_ok().then_some(Way::Direct(service)))
}

/// A new connection through the Service, to whichever edge.
fn phone(space: &Space<'_>, way: &Way, user: &str) -> Phone {
    Phone::new(vec![way.clone()], None, &space.domain(), true).of(user, USER.1)
}

/// Each class has its bounds, whichever edge is asked: below them 423 and the least, above them the most.
pub async fn reg_4_each_class_has_its_bounds_in_a_cluster(space: &Space<'_>) -> Fallible<Outcome> {
    let Some(way) = fleet(space).await? else {
        return Ok(Outcome::Skipped("this machine has no way to ClusterIPs".to_owned()));
    };
    for (profile, least, most) in CLASSES {
        let user = &*profile.to_lowercase();
        // The address is known at both edges when `Programmed` says so; the Service chooses one for each connection.
        for number in 0..4 {
            let phone = phone(space, &way, user);
            let contact = format!("c{number}");
            match phone.register(&contact, least - 1, LIMIT).await {
                Err(Lost::Refused(423, why)) if why.contains(&format!("; Min-Expires: {least}")) => {}
                other => return Err(format!("{profile}, {} s: {other:?}", least - 1)),
            }
            for (asked, from, to) in [(least, least, most), (86_400, least, most)] {
                let granted = phone.register(&contact, asked, LIMIT).await;
                let granted = granted.map_err(|lost| format!("{profile}, {asked} s: {lost}"))?;
                ensure!((from..=to).contains(&granted), "{profile}: {granted} s for {asked} s");
                // Only a pool is spread.
                let exact = profile == "Pool" || granted == asked.min(most);
                ensure!(exact, "{profile}: {granted} s for {asked} s");
            }
            ensure!(phone.register(&contact, 0, LIMIT).await.is_err(), "{profile}: a Contact that was removed stands");
            phone.quit().await;
        }
    }
    Ok(Outcome::Passed)
}

/// Members of a pool that register at one time come again at different times.
pub async fn reg_5_pool_members_come_again_at_different_times(space: &Space<'_>) -> Fallible<Outcome> {
    let Some(way) = fleet(space).await? else {
        return Ok(Outcome::Skipped("this machine has no way to ClusterIPs".to_owned()));
    };
    let phones: Vec<Phone> = (0..MEMBERS).map(|_| phone(space, &way, "pool")).collect();
    // The registration of one address is written by one edge after another.
    let all = phones.iter().enumerate().map(|(number, phone)| async move {
        phone
            .register(&format!("member-{number}"), 900, PATIENCE)
            .await
            .map_err(|lost| format!("member {number}: {lost}"))
    });
    let mut granted = futures_util::future::try_join_all(all).await?;
    granted.sort_unstable();
    let (first, last) = (granted[0], granted[granted.len() - 1]);
    ensure!(first >= 300 && last <= 900, "{granted:?}");
    granted.dedup();
    let different = granted.len();
    space
        .world
        .figures
        .tell("pool-expiries", json!({"members": MEMBERS, "different": different, "first_s": first, "last_s": last}))?;
    ensure!(different > MEMBERS / 2 && last - first >= 30, "they come again together: {granted:?}");
    Ok(Outcome::Passed)
}
