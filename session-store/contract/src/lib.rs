//! What every store must do, as tests that run on any of them. Used by the tests of the stores only.
//!
//! A store implements [`Subject`], says `store_contract::suite!(make_subject);` in an integration test, and has one `#[test]` per
//! promise; [`differential::differential`] runs the same random operations on it and on the memory store and compares every reply.
//!
//! Cases pass time with [`Subject::pass`] and leave [`SLACK_MS`] on each side of an end, so that a store with a real clock may be as slow
//! as that. Lists whose order nobody promises (bindings, adopted items) are compared sorted.
#![forbid(unsafe_code)]

use session_store::op::{StoreError, StoreOp, StoreReply};

pub mod adoption;
pub mod calls;
pub mod capabilities;
pub mod conversations;
pub mod dialogs;
pub mod differential;
pub mod early;
pub mod edges;
pub mod ends;
pub mod exchanges;
pub mod legs;
pub mod memory;
pub mod nonces;
pub mod operations;
pub mod registrations;
pub mod restore;
pub mod samples;
pub mod sessions;

/// A store under test: empty when it is made, and nobody else's.
pub trait Subject {
    /// Executes one operation.
    ///
    /// # Errors
    /// What the store said.
    fn run(&mut self, operation: StoreOp) -> Result<StoreReply, StoreError>;

    /// What the store's clock says, in wall-clock milliseconds.
    fn now(&self) -> u64;

    /// Lets so much time pass for the store.
    fn pass(&mut self, ms: u64);

    /// How many names are still there, without those that have no end (generation, tenant numbers). A store that removes what has
    /// ended in steps does all of them now.
    fn left(&mut self) -> usize;
}

/// So long before or after an end a case looks.
pub const SLACK_MS: u64 = 5_000;

/// One `#[test]` per promise. The argument makes a [`Subject`]: a function without arguments. Test binaries that cannot run several
/// subjects at once start them behind a lock, or run with `--test-threads 1`.
#[macro_export]
macro_rules! suite {
    ($make:expr) => {
        $crate::__tests! { $make;
            registrations {
                reg_1_contact_bytes_come_back_unchanged
                refresh_replaces_remove_removes_query_changes_nothing
                an_old_cseq_of_the_same_call_changes_nothing_at_all
                reg_6_star_removes_everything_at_once
                reg_6_a_late_register_does_not_bring_a_removed_binding_back
                reg_6_a_late_register_of_another_call_does_not_either
                reg_6_star_is_remembered_for_every_binding
                reg_6_a_retransmitted_removal_is_no_error
                each_binding_ends_by_itself
                too_many_bindings_change_nothing
                too_many_capabilities_change_nothing
                addresses_do_not_meet
            }
            capabilities {
                reg_2_a_capability_is_found_at_every_address_that_offers_it
                reg_2_the_limit_holds
                reg_2_a_refresh_without_it_and_a_removal_take_it_back
                reg_2_it_ends_with_its_binding
                reg_2_tenants_do_not_meet
            }
            nonces {
                a_count_is_taken_once_and_a_retransmission_is_no_replay
                sec_8_counts_that_overtake_each_other_are_each_taken_once
                a_count_far_below_the_highest_is_refused
                the_last_requests_may_come_again
                a_nonce_ends
                a_replay_changes_nothing
            }
            calls {
                a_second_invite_finds_the_first
                a_call_whose_lease_ended_is_adopted_once_and_the_old_owner_is_fenced
                a_higher_epoch_of_the_same_edge_adopts_at_once
                the_owner_itself_does_not_adopt
                cancel_before_the_answer_wins
                cancel_after_the_answer_is_too_late
                one_final_response_only
                an_accepted_invite_that_comes_again_gets_the_2xx_until_its_ack
                an_answer_that_nobody_was_given_is_taken_back
                an_answer_that_somebody_has_stays
                a_pending_guard_ends_so_that_its_name_is_free
                the_2xx_belongs_to_the_owner_of_the_call
            }
            early {
                an_early_dialog_becomes_the_answered_one
                it_may_be_written_again
                what_was_claimed_in_it_stays_claimed
                only_the_owner_writes_it
                it_ends_with_the_call_that_came_to_nothing
                a_call_is_not_answered_over_an_ended_dialog
                it_moves_with_its_call
            }
            legs {
                legs_are_replaced_and_told_to_cancel_and_to_the_adopter
                only_the_owner_places_legs
                too_many_legs_are_refused
                both_dialogs_are_made_in_one_step
                a_leg_that_ends_takes_the_other_along
                a_bye_of_ours_takes_the_other_along
                burying_a_leg_takes_the_other_along
                an_ended_leg_stays_ended
            }
            dialogs {
                a_request_is_claimed_once_and_its_response_is_replayed
                a_claim_that_nobody_answers_lapses
                a_claim_in_a_call_of_two_legs_lasts
                cseq_only_rises
                a_response_is_kept_as_long_as_it_may_be_asked_for
                compare_and_set_tells_the_loser_what_is_there
                bye_leaves_a_tombstone_that_replays_its_answer
                our_requests_count_upwards_and_close_an_exchange_on_the_way
                terminating_refuses_nothing_until_it_is_buried
                a_writer_does_not_take_back_that_it_terminates
                owner_and_flow_are_the_stores_word
                confirming_drops_the_2xx
                unknown_dialogs_are_unknown_everywhere
                another_principal_moves_nothing_and_an_anonymous_one_stays_on_its_flow
                begin_moves_the_flow
                a_repeated_request_moves_no_flow
                a_timer_is_fenced_by_owner_and_version
                a_fenced_request_closes_nothing
                a_refresh_moves_the_end
            }
            restore {
                what_was_lost_is_set_if_absent
                what_is_there_is_not_overwritten
                what_ended_is_not_brought_back
                it_belongs_to_the_owner_in_the_record
            }
            exchanges {
                a_repetition_waits_then_gets_the_kept_answer
                a_repetition_moves_the_return_path
                a_repetition_in_a_dialog_moves_both
                an_answer_on_its_way_is_given_to_a_repetition_and_to_who_adopts_it
                a_request_that_may_run_again_is_adopted_with_its_bytes_until_its_caller_has_the_answer
                another_body_moves_nothing
                what_is_safe_to_repeat_runs_again_and_what_is_not_never_does
                another_body_by_the_same_name_is_taken_in_flight_and_new_afterwards
                only_the_owner_closes_and_only_once
                the_in_flight_limit_counts_what_is_unanswered_in_this_session
                once_is_true_once
                what_is_noted_is_found_by_the_adopter
                only_the_owner_notes_and_only_in_flight
                an_exchange_begins_with_a_request_in_a_dialog
                an_answer_on_its_way_outlives_the_deadline
                what_its_owner_never_heard_of_is_taken_over_once
                only_the_same_request_in_flight_under_that_owner_is_taken_over
                what_was_adopted_is_not_taken_over
            }
            sessions {
                compare_and_set
                reading_moves_the_idle_end_and_never_back
                an_exchange_brings_the_session_and_moves_its_end
                an_idle_session_is_dropped_only_while_nobody_moves_its_end
                dropping_takes_the_journal_along_and_nothing_else
            }
            edges {
                an_epoch_rises_by_one
                an_epoch_is_higher_than_the_edges_own_last
                of_two_processes_under_one_id_the_older_takes_nothing_back
                an_epoch_is_remembered_when_the_lease_ended
                one_generation_written_once
                a_lease_is_renewed_and_ends
                each_renewal_brings_its_own_lease_and_takes_nothing_back
                a_lease_that_ended_is_not_made_again
                another_life_fences_the_first
                leaving_ends_the_lease_at_once
                every_edge_is_listed_with_what_it_says
                a_dead_edge_is_listed_for_two_hours
                a_tenant_number_is_given_once
            }
            adoption {
                calls_dialogs_and_exchanges_are_taken_over
                what_has_ended_is_nobodys
                an_earlier_life_is_adopted_and_a_later_one_is_not
                an_equal_epoch_with_another_boot_is_adopted
                slice_by_slice
                labels_and_edges_do_not_meet
                the_old_owner_is_fenced_everywhere
                what_was_adopted_can_be_adopted_again
                nothing_is_adopted_twice
            }
            conversations {
                obs_4_everything_of_a_conversation_is_told
                obs_4_erasing_leaves_nothing_but_a_silent_tombstone
                obs_4_a_conversation_of_two_legs_is_one
                obs_4_conversations_do_not_meet
                obs_4_a_restored_dialog_is_found
                obs_4_an_unknown_conversation_is_empty
                obs_4_what_is_retained_is_told_after_the_end_and_then_is_gone
                obs_4_a_dialog_that_just_ran_out_is_retained_as_well
                obs_4_without_retention_nothing_outlives_the_tombstone
                obs_4_what_is_retained_is_erased_before_and_after_the_end
                obs_4_the_oldest_answers_give_way
            }
            ends {
                after_the_last_lifetime_no_name_remains
                a_tombstone_ends
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($make:expr; $($module:ident { $($case:ident)* })*) => {$(
        mod $module {
            #[allow(unused_imports, reason = "the subject may be named by its whole path")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::$module::$case(&mut $make());
                }
            )*
        }
    )*};
}
