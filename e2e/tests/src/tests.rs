//! The tests, in the order in which they run: the first two find a cluster without us.

mod allowed;
mod charts;
mod cut;
mod demo;
mod faults;
mod hardened;
mod heals;
mod operators;
mod outage;
mod refused;
mod registrations;
mod rights;
mod routable;
mod tenant;
mod transports;
mod upgrade;

use std::time::Duration;

use crate::runner::{Body, Test};

const fn test(name: &'static str, shows: &'static str, seconds: u64, body: Body) -> Test {
    Test { name, shows, limit: Duration::from_secs(seconds), long: false, body }
}

const fn long(name: &'static str, shows: &'static str, seconds: u64, body: Body) -> Test {
    Test { name, shows, limit: Duration::from_secs(seconds), long: true, body }
}

/// All of them.
pub const ALL: &[Test] = &[
    test("obs_6_objects_of_the_charts_are_taken", "OBS-6; both charts, every set of values, monitors", 700, |s| {
        Box::pin(charts::obs_6_objects_of_the_charts_are_taken(s))
    }),
    test("three_commands_to_a_talking_agent", "quickstart: two charts, one call", 400, |s| {
        Box::pin(demo::three_commands(s))
    }),
    test(
        "obs_6_invalid_examples_are_refused_with_their_field",
        "OBS-6; schema, CEL and webhook, each with its field",
        300,
        |s| Box::pin(refused::obs_6_invalid_examples_are_refused_with_their_field(s)),
    ),
    test("valid_examples_are_taken", "schema and webhook", 120, |s| Box::pin(refused::valid(s))),
    test("what_the_webhook_alone_can_see_is_refused", "conflicts over several objects", 240, |s| {
        Box::pin(refused::conflicts(s))
    }),
    test(
        "apply_to_routable",
        "REG-9; apply to routable on 3 edges, 100 and 1000 agents; only a delta travels",
        1200,
        |s| Box::pin(routable::thousand(s)),
    ),
    long("apply_to_routable_at_scale", "the same at scale, memory", 5400, |s| Box::pin(routable::scale(s))),
    test("a_lost_reference_closes_and_heals", "conditions, reasons, events; fails closed in its own scope", 300, |s| {
        Box::pin(heals::lost_reference(s))
    }),
    test("a_store_that_comes_late_is_waited_for", "no crash loop; condition", 300, |s| Box::pin(heals::late_store(s))),
    test("two_operators_one_writer", "Lease, takeover of the Lease", 300, |s| Box::pin(operators::one_writer(s))),
    test("edges_go_on_without_an_operator", "operator killed; a restarted edge starts from its file", 400, |s| {
        Box::pin(operators::without(s))
    }),
    test("a_deleted_pod_comes_again", "pod deleted; calls go on", 300, |s| Box::pin(faults::deleted_pod(s))),
    test("n1_calls_survive_forced_deletions", "N1: 20 forced pod deletions, grace 0", 900, |s| {
        Box::pin(faults::forced_deletions(s))
    }),
    test(
        "n10_the_store_is_away_for_a_minute",
        "N10: under load; Redis pod deleted, back with nothing in it",
        400,
        |s| Box::pin(outage::a_minute(s)),
    ),
    test(
        "n7_a_node_is_cut_off_and_the_status_says_so",
        "N7: node cut off; PartiallyProgrammed within 15 s",
        500,
        |s| Box::pin(cut::node_cut_off(s)),
    ),
    test("rolling_upgrade_under_load", "P12, N2: 50 calls/s, 0 failed", 900, |s| Box::pin(upgrade::under_load(s))),
    test("n11_a_draining_edge_answers_options_with_503", "N11, first half: SIP-native health", 240, |s| {
        Box::pin(upgrade::options_while_draining(s))
    }),
    test("scale_goes_through_the_subresource_in_order", "ordered scale-down through /scale", 300, |s| {
        Box::pin(upgrade::scale(s))
    }),
    test("sec_15_a_tenant_reaches_nothing_of_another", "SEC-15; RBAC, Admin API", 300, |s| {
        Box::pin(rights::sec_15_a_tenant_reaches_nothing_of_another(s))
    }),
    test("n8_a_domain_has_one_owner", "N8: webhook, condition where there is none, inherited", 300, |s| {
        Box::pin(tenant::n8_a_domain_has_one_owner(s))
    }),
    test("sec_15_n8_a_removed_key_closes_what_it_sealed", "N8, SEC-15: rotated, deleted, put back", 400, |s| {
        Box::pin(tenant::sec_15_n8_a_removed_key_closes_what_it_sealed(s))
    }),
    test("obs_4_n8_one_conversation_is_erased", "N8, OBS-4: Admin API", 300, |s| {
        Box::pin(tenant::obs_4_n8_one_conversation_is_erased(s))
    }),
    test("n9_why_names_the_deciding_rule", "N9, first half", 240, |s| Box::pin(rights::why(s))),
    test("n9_a_condition_is_held_against_the_tools", "N9: unknown argument, no boolean; heals", 300, |s| {
        Box::pin(allowed::conditions(s))
    }),
    test("sec_6_a_rule_counts_for_its_agent_and_tenant", "SEC-6; default deny, a Deny of the domain wins", 300, |s| {
        Box::pin(allowed::sec_6_a_rule_counts_for_its_agent_and_tenant(s))
    }),
    test("reg_4_each_class_has_its_bounds_in_a_cluster", "REG-4; 423, through the Service", 300, |s| {
        Box::pin(registrations::reg_4_each_class_has_its_bounds_in_a_cluster(s))
    }),
    test("reg_5_pool_members_come_again_at_different_times", "REG-5; through the Service", 300, |s| {
        Box::pin(registrations::reg_5_pool_members_come_again_at_different_times(s))
    }),
    test("sec_pods_run_without_rights", "read-only, non-root, no capabilities, audience-bound token", 300, |s| {
        Box::pin(hardened::pods(s))
    }),
    test("transports_through_a_cluster_ip", "UDP, TCP, TLS, WSS; advertised address", 300, |s| {
        Box::pin(transports::cluster_ip(s))
    }),
    test("transports_through_a_node_port", "the same, source address kept", 300, |s| {
        Box::pin(transports::node_port(s))
    }),
    test("transports_on_the_host_network", "the same, source address kept", 300, |s| {
        Box::pin(transports::host_network(s))
    }),
];

#[cfg(test)]
mod checks {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_into_a_namespace() {
        let names: BTreeSet<&str> = ALL.iter().map(|test| test.name).collect();
        assert_eq!(names.len(), ALL.len());
        let short: BTreeSet<&str> = ALL.iter().map(|test| &test.name[..test.name.len().min(24)]).collect();
        assert_eq!(short.len(), ALL.len(), "the first 24 characters name the namespace");
        for test in ALL {
            assert!(
                test.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                test.name
            );
        }
    }
}
