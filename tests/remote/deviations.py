"""What no loopback server can show."""

BARE = "behind the loopback server is a bare process of this machine; the wall is the vendor's machine"
NO_WALL = dict.fromkeys(
    (
        "test_host_file_is_not_read",
        "test_host_file_is_not_written",
        "test_no_program_of_the_host_is_started",
        "test_network_is_not_reached",
        "test_process_of_the_host_is_not_signalled",
        "test_sessions_share_no_temporary_files",
    ),
    BARE,
)
