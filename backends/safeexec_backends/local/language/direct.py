"""Attribute names that are read without a call: all that the facades, the built-in types and what they give have.

`tests/local/language/test_reachable.py` walks everything that a program can reach by these names, on every Python version, and asserts that
none of it is a module, a frame, code, an event loop or an unguarded builtin. A name that is not here costs a guarded call, no more.
"""

DIRECT = frozenset(
    """
    A ACCEPTED ALREADY_REPORTED APRIL ASCII AUGUST AsyncGenerator AsyncIterable AsyncIterator Awaitable
    BAD_GATEWAY BAD_REQUEST Buffer BufferingHandler ByteString CDATA_CONTENT_ELEMENTS CONFLICT CONFORM
    CONNECT CONTENT_TOO_LARGE CONTINUE CONTINUOUS CRC CREATED Callable Collection Container Coroutine
    DEBUG DECEMBER DELETE DOTALL DataError DatabaseError EARLY_HINTS EJECT EXPECTATION_FAILED Emax Emin
    Error Etiny Etop FAILED_DEPENDENCY FEBRUARY FORBIDDEN FOUND FRIDAY FileHeader GATEWAY_TIMEOUT GET GONE
    Generator HEAD HTMLParser HTTP_VERSION_NOT_SUPPORTED Hashable I IGNORECASE IM_A_TEAPOT IM_USED
    INSUFFICIENT_STORAGE INTERNAL_SERVER_ERROR IntegrityError InterfaceError InternalError ItemsView
    Iterable Iterator JANUARY JSONDecodeError JSONDecoder JULY JUNE KEEP KEYWORD_ONLY KeysView L
    LENGTH_REQUIRED LOCALE LOCKED LOOP_DETECTED M MARCH MAX_DIGEST_SIZE MAX_KEY_SIZE MAY
    METHOD_NOT_ALLOWED MISDIRECTED_REQUEST MISSING MONDAY MOVED_PERMANENTLY MULTILINE MULTIPLE_CHOICES
    MULTI_STATUS Mapping MappingView MemoryHandler MutableMapping MutableSequence MutableSet NAMED_FLAGS
    NETWORK_AUTHENTICATION_REQUIRED NOFLAG NON_AUTHORITATIVE_INFORMATION NOT_ACCEPTABLE NOT_EXTENDED
    NOT_FOUND NOT_IMPLEMENTED NOT_MODIFIED NOVEMBER NO_CONTENT NameToInfo NotSupportedError OCTOBER OK
    OPTIONS OperationalError PARTIAL_CONTENT PATCH PAYMENT_REQUIRED PERMANENT_REDIRECT PERSON_SIZE
    POSITIONAL_ONLY POSITIONAL_OR_KEYWORD POST PRECONDITION_FAILED PRECONDITION_REQUIRED PROCESSING
    PROXY_AUTHENTICATION_REQUIRED PUT ProgrammingError RANGE_NOT_SATISFIABLE
    REQUESTED_RANGE_NOT_SATISFIABLE REQUEST_ENTITY_TOO_LARGE REQUEST_HEADER_FIELDS_TOO_LARGE
    REQUEST_TIMEOUT REQUEST_URI_TOO_LONG RESET_CONTENT Reversible S SALT_SIZE SATURDAY SEE_OTHER SEPTEMBER
    SERVICE_UNAVAILABLE STRICT SUNDAY SWITCHING_PROTOCOLS Sequence Set Sized T TEMPLATE TEMPORARY_REDIRECT
    THURSDAY TOO_EARLY TOO_MANY_REQUESTS TRACE TUESDAY U UNAUTHORIZED UNAVAILABLE_FOR_LEGAL_REASONS
    UNICODE UNIQUE UNPROCESSABLE_CONTENT UNPROCESSABLE_ENTITY UNSUPPORTED_MEDIA_TYPE UPGRADE_REQUIRED
    URI_TOO_LONG USE_PROXY VARIANT_ALSO_NEGOTIATES VAR_KEYWORD VAR_POSITIONAL VERBOSE VERSION ValuesView
    WEDNESDAY Warning X a abort abs absolute abspath aclose acquire acquire_lock add addFilter addHandler
    add_done_callback add_note address_exclude adjusted ag_running ag_suspended algorithm alive
    all_tasks_done allow_nan altsep anchor annotation append appendleft apply_defaults arg args arguments
    arraysize as_integer_ratio as_posix as_tuple as_uri asctime_format asctime_search asend asname
    astimezone athrow attrib attrname autocommit autojunk b b2j backup basename betavariate bind
    bind_partial binomialvariate bit_count bit_length bits_per_digit bjunk block_size blocksize
    body bound bpopular braceidpattern break_long_words break_on_hyphens broadcast_address broken
    buffer_info bufsize bytes bytes_le byteswap c c_contiguous cache_clear cache_info cache_parameters
    callHandlers call_at call_later call_soon call_soon_threadsafe callback cancel cancelled cancelling
    canonical capitalize capitals casefold cast category cause cdata_elem cdf center characters_written
    charjunk check_circular check_for_whole_start_tag check_unused_args choice choices clamp cleanup clear
    clear_cache clear_cdata_mode clear_flags clear_traps clock_seq clock_seq_hi_variant clock_seq_low
    close closed co_argcount co_filename co_firstlineno co_flags co_freevars co_kwonlyargcount co_name
    co_nlocals co_posonlyargcount co_stacksize co_varnames code codepoint2name colno combine comment
    commit commonpath commonprefix compare compare_networks compare_signal compare_total compare_total_mag
    compiler_flag compress compress_level compress_size compress_type compressed compression compresslevel
    conjugate contiguous convert_charrefs convert_field converter copy copy_abs copy_decimal copy_negate
    copy_sign copy_with count cr_running cr_suspended crc createLock create_aggregate create_collation
    create_decimal create_decimal_from_float create_function create_future create_system create_task
    create_version create_window_function created critical cssclass_month cssclass_month_head
    cssclass_noday cssclass_year cssclass_year_head cssclasses cssclasses_weekday_head ctime curdir cursor
    cutoff cwd daemon data date date_time datefmt day days debug decode default default_factory
    default_format default_max_str_digits default_msec_format default_time_format default_value defpath
    deleter delimiter denominator derive description deserialize dev_mode devnull dialect difference
    difference_update dig digest digest_size digits dims dirname disabled discard dispatch divide
    divide_int divmod done doublequote drive drop_whitespace dst elements emit empty encode encoding end
    end_col_offset end_colno end_lineno end_offset endpos endswith ensure_ascii enter_async_context
    enter_context enter_result entity entitydefs epsilon errno error errors escapechar exc exc_info
    exc_text exception exceptions execute executemany executescript exists exp expand expand_tabs
    expandtabs expanduser expandvars expired exploded exponent expovariate extend extendleft external_attr
    extra extract extract_version extractall extsep f_contiguous fatal fdel feed fetchall fetchmany
    fetchone fget fieldnames fields file file_size filelist filename filename2 fileno fileobj fill filter
    filters find find_longest_match findall finditer findtext finished firstweekday fix_sentence_endings
    flag_bits flags flush fma fold formatException formatMessage formatStack formatTime format_field
    format_frame_summary format_spec formatday formatmonth formatmonthname formatter formatweek
    formatweekday formatweekheader formatyear formatyearpage fp fragment from_bytes from_decimal from_file
    from_float from_iterable from_list from_samples frombytes fromfile fromhex fromisocalendar
    fromisoformat fromkeys fromlist fromordinal fromtimestamp fromunicode fromutc fset full full_match
    fullbcount fullmatch func funcName function gammavariate gauss gauss_next gen generic_visit get
    getChild getChildren getEffectiveLevel getMandatoryRelease getMessage getName getOptionalRelease
    get_debug get_field get_grouped_opcodes get_identifiers get_matching_blocks get_name get_nowait
    get_opcodes get_ready get_starttag_text get_value getatime getbuffer getconfig getctime
    getfirstweekday getinfo getlimit getmtime getpos getrandbits getsize getstate getter geturl getvalue
    gi_running gi_suspended glob goahead group groupdict groupindex groups guard handle handleError
    handle_charref handle_comment handle_data handle_decl handle_endtag handle_entityref handle_pi
    handle_startendtag handle_starttag handlers hasHandlers has_default has_header hash hash_bits
    header_offset hex hexdigest home hostmask hostname hosts hour html5 ident idpattern imag
    in_transaction indent index indices inf info infolist init initial_indent inode insert int interesting
    internal_attr interrupt intersection intersection_update interval inv_cdf ip ipv4_mapped ipv6_mapped
    isDaemon isEnabledFor isSet is_absolute is_active is_alive is_canonical is_client_error is_closed
    is_dir is_file is_finite is_global is_infinite is_informational is_integer is_junction is_link_local
    is_loopback is_multicast is_nan is_normal is_private is_qnan is_redirection is_relative_to is_reserved
    is_running is_safe is_server_error is_set is_shutdown is_signed is_site_local is_snan is_subnormal
    is_success is_symlink is_unspecified is_valid is_zero isabs isalnum isalpha isascii isatty isdecimal
    isdigit isdir isdisjoint isfile isidentifier isjunk islink islower ismount isnumeric isocalendar
    isoformat isolation_level isoweekday isprintable isreadable isrecursive isspace issubset issuperset
    istitle isupper item_separator items itemsize iter iter_unpack iterdir iterdump iterencode iterfind
    itermonthdates itermonthdays itermonthdays2 itermonthdays3 itermonthdays4 itertext itervaluerefs
    iterweekdays join joinpath key key_separator keyrefs keys keywords kind kw_only kwarg kwargs kwds
    lastgroup lastindex lastrowid lasttag level levelname levelno lexists limit_denominator line
    line_buffering line_num linejunk lineno lineterminator ljust ln locals lock locked locked_lock log
    log10 logb logical_and logical_invert logical_or logical_xor lognormvariate lower lstat lstrip m major
    makeRecord make_file make_table makeelement maketrans mandatory mant_dig map mapping maps match
    matching_blocks max max_10_exp max_exp max_lines max_mag max_prefixlen maxlen maxsize mean median
    member memo message metadata metadata_encoding micro microsecond microseconds min min_10_exp min_exp
    min_mag minor minus minute mkdir mode module modulus month monthdatescalendar monthdays2calendar
    monthdayscalendar most_common move_to_end msecs msg mtime multiply mutex myfileobj n n_fields
    n_sequence_fields n_unnamed_fields n_waiting name name2codepoint name_from namelist nan native_id
    nbytes ndim netloc netmask network_address new_child newlines next_minus next_plus next_toward
    no_cache node normalize normalvariate normcase normpath not_empty not_full notify notifyAll notify_all
    now num_addresses number_class numerator object object_hook object_pairs_hook offset old_value opcodes
    open optimize optional optional_vars orig_filename overlap overlaps p pack pack_into packed parameters
    params pardir parent parents paretovariate parse parse_array parse_bogus_comment parse_comment
    parse_constant parse_declaration parse_endtag parse_float parse_html_declaration parse_int
    parse_marked_section parse_object parse_pi parse_starttag parse_string parties partition parts
    password path pathname pathsep pattern pdf peek pformat phrase pi placeholder plus pop pop_all popitem
    popleft port pos power pprint prec preferred prefixlen prepare print_file_and_line printdir prmonth
    process processName propagate prweek pryear push push_async_callback push_async_exit put put_nowait
    qsize quantiles quantize query queue quick_ratio quotechar quoting radix randbytes randint random
    randrange ratio raw_decode rawdata re read read1 read_bytes read_events read_text readable readall
    reader readinto readinto1 readline readlines readonly real real_quick_ratio realpath reason
    reconfigure register registry regs relativeCreated relative_to release release_lock releaselevel
    relpath remainder remainder_near remove removeFilter removeHandler remove_done_callback removeprefix
    removesuffix rename replace replace_whitespace repr repr1 repr_array repr_deque repr_dict
    repr_frozenset repr_instance repr_int repr_list repr_set repr_str repr_tuple reschedule reserved reset
    resolution resolve rest restkey restval result return_annotation returns reverse reverse_pointer
    rewind rfind rglob rindex rjust rmdir rollback root rotate rounding rounds row_factory rowcount
    rpartition rsplit rstrip run run_forever run_in_executor run_until_complete running s safe
    safe_substitute same_quantum samefile sample samples scaleb scan_once scanner scheme scope_id search
    second seconds seed seed_bits seek seekable send sentence_end_re sep serial serialize set setDaemon
    setFormatter setLevel setName setStream setTarget set_cdata_mode set_debug set_exception set_name
    set_progress_handler set_result set_running_or_notify_cancel set_seq1 set_seq2 set_seqs
    set_trace_callback setdefault setfirstweekday setinputsizes setlimit setoutputsize
    setpassword setstate setter shape shift shouldFlush shuffle shutdown shutdown_asyncgens sign signature
    sixtofour size sizeof_digit skipinitialspace skipkeys sniff sort sort_keys source span split
    splitdrive splitext splitlines splitroot sqrt st_atime st_atime_ns st_blksize st_blocks st_ctime
    st_ctime_ns st_dev st_gid st_ino st_mode st_mtime st_mtime_ns st_nlink st_rdev st_size st_uid
    stack_info start start_dir startswith stat static_order stdev stem step stop
    str_digits_check_threshold stream strerror strftime strict strides string strip strptime sub subgroup
    submit subn subnet_of subnets suboffsets subsequent_indent substitute subtract suffix suffixes
    supernet supernet_of supports_unicode_filenames swapcase symmetric_difference
    symmetric_difference_update tabsize tag tail target taskName task_done tb_lasti tb_lineno tb_next tell
    template teredo terminator testzip text text_factory thread threadName throw time time_hi_version
    time_low time_mid timestamp timetuple timetz title tm_gmtoff tm_hour tm_isdst tm_mday tm_min tm_mon
    tm_sec tm_wday tm_yday tm_year tm_zone to_bytes to_eng_string to_integral to_integral_exact
    to_integral_value to_sci_string tobytes today tofile tolist toordinal toreadonly total total_changes
    total_seconds touch tounicode translate triangular truncate type type_comment type_ignores typecode
    tzinfo tzname uncancel unfinished_tasks unicode_whitespace_trans uniform union unknown unknown_decl
    unlink unpack unpack_from unsafe update updatepos upper url urn username usesTime utc utcfromtimestamp
    utcnow utcoffset utctimetuple utf8_mode validate validation_pattern value valuerefs values var vararg
    variance variant verbose version vformat visit visit_Constant volume vonmisesvariate wait wait_for
    walk warn warning weekday weibullvariate when width with_hostmask with_name with_netmask
    with_prefixlen with_segments with_stem with_suffix with_traceback wordsep_re wordsep_simple_re wrap
    writable write write_bytes write_text write_through writebuf writeheader writelines writerow writerows
    writestr x year yeardatescalendar yeardays2calendar yeardayscalendar zfill zscore
    """.split()
)
