"""Each of fifteen bugs that controllers of Firecracker have had has its regression tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TESTS = Path(__file__).parents[1]
DEFINED = re.compile(r"^def (test_\w+)\(", re.MULTILINE)

REGRESSIONS: Final = {
    "shell injection through ids or paths": (
        "test_invalid_ids_are_rejected_before_any_effect",
        "test_paths_with_shell_syntax_are_not_run_by_a_shell",
    ),
    "a guest killed after a refused API call": ("test_guest_survives_a_refused_snapshot",),
    "the wrong image loaded": (
        "test_image_of_another_instance_is_not_loaded",
        "test_truncated_image_is_not_loaded",
    ),
    "an image that is only a diff, or is overwritten": (
        "test_every_image_is_full_and_survives_compression",
        "test_image_is_never_overwritten",
    ),
    "a woken VMM with weaker confinement": (
        "test_woken_vmm_is_confined_exactly_as_a_booted_one",
        "test_threads_of_a_woken_vmm_have_the_seccomp_filter_of_a_booted_one",
    ),
    "a woken guest with other disks": ("test_guest_wakes_with_the_disks_that_it_had_mounted",),
    "a guest paused before it drained": (
        "test_guest_drains_before_its_pause_and_a_timeout_is_reported",
    ),
    "a vsock command that arrives in pieces": ("test_vsock_connect_command_is_sent_in_one_piece",),
    "a jail with leftovers, or paths outside it": (
        "test_each_start_gets_a_jail_without_leftovers",
        "test_vmm_gets_paths_inside_its_jail_only",
    ),
    "a VMM outside its control group": (
        "test_cgroup_limits_the_vmm_and_kills_all_of_it",
        "test_vmm_outside_its_cgroup_does_not_count_as_started",
    ),
    "a recorded pid or a TAP that belongs to somebody else": (
        "test_process_that_reuses_a_recorded_pid_is_not_killed",
        "test_tap_opens_for_the_uid_of_its_jail_only",
        "test_tap_owned_by_root_is_made_again_for_the_uid_of_the_jail",
    ),
    "races of requests at once": (
        "test_concurrent_starts_share_no_address_and_keep_the_quota",
        "test_duplicate_request_is_carried_out_once",
    ),
    "network state that is assumed, not read": (
        "test_half_built_bridge_does_not_count_as_built",
        "test_traffic_between_tenants_is_dropped_and_flushed_rules_come_back",
        "test_guests_cannot_reach_the_metadata_service_of_the_cloud",
    ),
    "leftovers of a guest": (
        "test_secrets_of_a_running_guest_are_on_no_disk",
        "test_stop_and_destroy_leave_nothing_and_a_second_destroy_succeeds",
        "test_failed_start_leaves_nothing",
    ),
    "one tenant's rules cutting off another": (
        "test_rules_of_one_tenant_do_not_block_the_metadata_endpoint_of_another",
    ),
}


def test_each_of_fifteen_bugs_has_its_regression_tests() -> None:
    found = {
        name
        for file in TESTS.rglob("test_regressions*.py")
        for name in DEFINED.findall(file.read_text())
    }
    assert len(REGRESSIONS) == 15
    for bug, tests in REGRESSIONS.items():
        assert tests, bug
        assert set(tests) <= found, bug
