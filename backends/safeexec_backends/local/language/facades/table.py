"""The reviewed names of modules that need nothing else: what they give is safe as it is.

Reviewed for: re-exported modules, names that read attributes, import, open, evaluate or change other modules, classes whose
private attributes steer such a thing when subclassed. What does need a guard has a builder in one of the other files
here. A name that a Python version lacks is left out.
"""

NAMES: dict[str, str] = {
    "abc": """
        ABC ABCMeta abstractclassmethod abstractmethod abstractproperty abstractstaticmethod get_cache_token""",
    "array": """
        ArrayType array typecodes""",
    "asyncio.exceptions": """
        BrokenBarrierError CancelledError InvalidStateError TimeoutError""",
    "asyncio.locks": """
        Barrier BoundedSemaphore Condition Event Lock Semaphore""",
    "asyncio.queues": """
        LifoQueue PriorityQueue Queue QueueEmpty QueueFull QueueShutDown""",
    "base64": """
        a85decode a85encode b16decode b16encode b32decode b32encode b32hexdecode b32hexencode b64decode
        b64encode b85decode b85encode decode decodebytes encode encodebytes standard_b64decode
        standard_b64encode urlsafe_b64decode urlsafe_b64encode z85decode z85encode""",
    "binascii": """
        Error Incomplete a2b_base64 a2b_hex a2b_qp a2b_uu b2a_base64 b2a_hex b2a_qp b2a_uu crc32 crc_hqx
        hexlify unhexlify""",
    "bisect": """
        bisect bisect_left bisect_right insort insort_left insort_right""",
    "calendar": """
        APRIL AUGUST Calendar DECEMBER Day FEBRUARY FRIDAY HTMLCalendar IllegalMonthError
        IllegalWeekdayError JANUARY JULY JUNE LocaleHTMLCalendar LocaleTextCalendar MARCH MAY MONDAY Month NOVEMBER OCTOBER SATURDAY SEPTEMBER
        SUNDAY THURSDAY TUESDAY TextCalendar WEDNESDAY calendar day_abbr day_name firstweekday isleap
        leapdays month month_abbr month_name monthcalendar monthrange prcal prmonth setfirstweekday timegm
        weekday weekheader""",
    "cmath": """
        acos acosh asin asinh atan atanh cos cosh e exp inf infj isclose isfinite isinf isnan log log10 nan
        nanj phase pi polar rect sin sinh sqrt tan tanh tau""",
    "collections": """
        ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque""",
    "collections.abc": """
        AsyncGenerator AsyncIterable AsyncIterator Awaitable Buffer ByteString Callable Collection Container
        Coroutine Generator Hashable ItemsView Iterable Iterator KeysView Mapping MappingView MutableMapping
        MutableSequence MutableSet Reversible Sequence Set Sized ValuesView""",
    "colorsys": """
        hls_to_rgb hsv_to_rgb rgb_to_hls rgb_to_hsv rgb_to_yiq yiq_to_rgb""",
    "concurrent.futures": """
        ALL_COMPLETED BrokenExecutor CancelledError Executor FIRST_COMPLETED FIRST_EXCEPTION Future
        InvalidStateError ThreadPoolExecutor TimeoutError as_completed wait""",
    "concurrent.futures.thread": """
        BrokenThreadPool ThreadPoolExecutor""",
    "contextlib": """
        AbstractAsyncContextManager AbstractContextManager AsyncExitStack ContextDecorator ExitStack
        aclosing asynccontextmanager closing contextmanager nullcontext suppress""",
    "contextvars": """
        Context ContextVar Token copy_context""",
    "csv": """
        Dialect DictReader DictWriter Error QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC
        QUOTE_NOTNULL QUOTE_STRINGS Sniffer __doc__ __version__ excel excel_tab field_size_limit get_dialect
        list_dialects reader register_dialect unix_dialect unregister_dialect writer""",
    "datetime": """
        MAXYEAR MINYEAR UTC date datetime time timedelta timezone tzinfo""",
    "decimal": """
        BasicContext Clamped Context ConversionSyntax Decimal DecimalException DecimalTuple DefaultContext
        DivisionByZero DivisionImpossible DivisionUndefined ExtendedContext FloatOperation HAVE_CONTEXTVAR
        HAVE_THREADS Inexact InvalidContext InvalidOperation MAX_EMAX MAX_PREC MIN_EMIN MIN_ETINY Overflow
        ROUND_05UP ROUND_CEILING ROUND_DOWN ROUND_FLOOR ROUND_HALF_DOWN ROUND_HALF_EVEN ROUND_HALF_UP
        ROUND_UP Rounded Subnormal Underflow getcontext localcontext setcontext""",
    "difflib": """
        Differ HtmlDiff IS_CHARACTER_JUNK IS_LINE_JUNK Match SequenceMatcher context_diff diff_bytes
        get_close_matches ndiff restore unified_diff""",
    "enum": """
        CONFORM CONTINUOUS EJECT Enum EnumCheck EnumMeta EnumType Flag FlagBoundary IntEnum IntFlag KEEP
        NAMED_FLAGS ReprEnum STRICT StrEnum UNIQUE auto member nonmember property unique verify""",
    "errno": """
        E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EADV EAFNOSUPPORT EAGAIN EALREADY EBADE EBADF EBADFD EBADMSG
        EBADR EBADRQC EBADSLT EBFONT EBUSY ECANCELED ECHILD ECHRNG ECOMM ECONNABORTED ECONNREFUSED
        ECONNRESET EDEADLK EDEADLOCK EDESTADDRREQ EDOM EDOTDOT EDQUOT EEXIST EFAULT EFBIG EHOSTDOWN
        EHOSTUNREACH EIDRM EILSEQ EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR EISNAM EKEYEXPIRED
        EKEYREJECTED EKEYREVOKED EL2HLT EL2NSYNC EL3HLT EL3RST ELIBACC ELIBBAD ELIBEXEC ELIBMAX ELIBSCN
        ELNRNG ELOOP EMEDIUMTYPE EMFILE EMLINK EMSGSIZE EMULTIHOP ENAMETOOLONG ENAVAIL ENETDOWN ENETRESET
        ENETUNREACH ENFILE ENOANO ENOBUFS ENOCSI ENODATA ENODEV ENOENT ENOEXEC ENOKEY ENOLCK ENOLINK
        ENOMEDIUM ENOMEM ENOMSG ENONET ENOPKG ENOPROTOOPT ENOSPC ENOSR ENOSTR ENOSYS ENOTBLK ENOTCONN
        ENOTDIR ENOTEMPTY ENOTNAM ENOTRECOVERABLE ENOTSOCK ENOTSUP ENOTTY ENOTUNIQ ENXIO EOPNOTSUPP
        EOVERFLOW EOWNERDEAD EPERM EPFNOSUPPORT EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EREMCHG
        EREMOTE EREMOTEIO ERESTART ERFKILL EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ESRMNT ESTALE
        ESTRPIPE ETIME ETIMEDOUT ETOOMANYREFS ETXTBSY EUCLEAN EUNATCH EUSERS EWOULDBLOCK EXDEV EXFULL
        errorcode""",
    "fnmatch": """
        filter fnmatch fnmatchcase translate""",
    "fractions": """
        Fraction""",
    "functools": """
        Placeholder WRAPPER_ASSIGNMENTS WRAPPER_UPDATES cache cached_property cmp_to_key lru_cache partial partialmethod
        reduce""",
    "graphlib": """
        CycleError TopologicalSorter""",
    "hashlib": """
        algorithms_available algorithms_guaranteed blake2b blake2s file_digest md5 new pbkdf2_hmac scrypt sha1
        sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512 sha512 shake_128 shake_256""",
    "heapq": """
        heapify heapify_max heappop heappop_max heappush heappush_max heappushpop heappushpop_max heapreplace heapreplace_max
        merge nlargest nsmallest _heapify_max _heappop_max _heapreplace_max""",
    "hmac": """
        HMAC compare_digest digest new""",
    "html": """
        escape unescape""",
    "html.entities": """
        codepoint2name entitydefs html5 name2codepoint""",
    "html.parser": """
        HTMLParser""",
    "http": """
        HTTPMethod HTTPStatus""",
    "ipaddress": """
        AddressValueError IPV4LENGTH IPV6LENGTH IPv4Address IPv4Interface IPv4Network IPv6Address
        IPv6Interface IPv6Network NetmaskValueError collapse_addresses get_mixed_type_key ip_address
        ip_interface ip_network summarize_address_range v4_int_to_packed v6_int_to_packed""",
    "itertools": """
        accumulate batched chain combinations combinations_with_replacement compress count cycle dropwhile
        filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest""",
    "json": """
        JSONDecodeError JSONDecoder JSONEncoder dump dumps load loads""",
    "json.decoder": """
        JSONDecodeError JSONDecoder""",
    "json.encoder": """
        JSONEncoder encode_basestring encode_basestring_ascii""",
    "keyword": """
        iskeyword issoftkeyword kwlist softkwlist""",
    "math": """
        acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp
        exp2 expm1 fabs factorial floor fma fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan
        isqrt lcm ldexp lgamma log log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder
        sin sinh sqrt sumprod tan tanh tau trunc ulp""",
    "numbers": """
        Complex Integral Number Rational Real""",
    "operator": """
        abs add and_ call concat contains countOf delitem eq floordiv ge getitem gt iadd iand iconcat
        ifloordiv ilshift imatmul imod imul index indexOf inv invert ior ipow irshift is_ is_not isub
        itemgetter itruediv ixor le length_hint lshift lt matmul mod mul ne neg not_ or_ pos pow rshift
        setitem sub truediv truth xor""",
    "plistlib": """
        FMT_BINARY FMT_XML InvalidFileException UID dump dumps load loads""",
    "pprint": """
        PrettyPrinter isreadable isrecursive pformat pp pprint saferepr""",
    "queue": """
        Empty Full LifoQueue PriorityQueue Queue ShutDown SimpleQueue""",
    "random": """
        Random SystemRandom betavariate binomialvariate choice choices expovariate gammavariate gauss
        getrandbits getstate lognormvariate normalvariate paretovariate randbytes randint random randrange
        sample seed setstate shuffle triangular uniform vonmisesvariate weibullvariate""",
    "re": """
        A ASCII DEBUG DOTALL I IGNORECASE L LOCALE M MULTILINE Match NOFLAG Pattern PatternError RegexFlag S Scanner U
        UNICODE VERBOSE X compile error escape findall finditer fullmatch match purge search split sub subn""",
    "reprlib": """
        Repr recursive_repr repr""",
    "secrets": """
        SystemRandom choice compare_digest randbelow randbits token_bytes token_hex token_urlsafe""",
    "stat": """
        FILE_ATTRIBUTE_ARCHIVE FILE_ATTRIBUTE_COMPRESSED FILE_ATTRIBUTE_DEVICE FILE_ATTRIBUTE_DIRECTORY
        FILE_ATTRIBUTE_ENCRYPTED FILE_ATTRIBUTE_HIDDEN FILE_ATTRIBUTE_INTEGRITY_STREAM FILE_ATTRIBUTE_NORMAL
        FILE_ATTRIBUTE_NOT_CONTENT_INDEXED FILE_ATTRIBUTE_NO_SCRUB_DATA FILE_ATTRIBUTE_OFFLINE
        FILE_ATTRIBUTE_READONLY FILE_ATTRIBUTE_REPARSE_POINT FILE_ATTRIBUTE_SPARSE_FILE
        FILE_ATTRIBUTE_SYSTEM FILE_ATTRIBUTE_TEMPORARY FILE_ATTRIBUTE_VIRTUAL SF_APPEND SF_ARCHIVED
        SF_DATALESS SF_FIRMLINK SF_IMMUTABLE SF_NOUNLINK SF_RESTRICTED SF_SETTABLE SF_SNAPSHOT ST_ATIME
        ST_CTIME ST_DEV ST_GID ST_INO ST_MODE ST_MTIME ST_NLINK ST_SIZE ST_UID S_ENFMT S_IEXEC S_IFBLK
        S_IFCHR S_IFDIR S_IFDOOR S_IFIFO S_IFLNK S_IFMT S_IFPORT S_IFREG S_IFSOCK S_IFWHT S_IMODE S_IREAD
        S_IRGRP S_IROTH S_IRUSR S_IRWXG S_IRWXO S_IRWXU S_ISBLK S_ISCHR S_ISDIR S_ISDOOR S_ISFIFO S_ISGID
        S_ISLNK S_ISPORT S_ISREG S_ISSOCK S_ISUID S_ISVTX S_ISWHT S_IWGRP S_IWOTH S_IWRITE S_IWUSR S_IXGRP
        S_IXOTH S_IXUSR UF_APPEND UF_COMPRESSED UF_DATAVAULT UF_HIDDEN UF_IMMUTABLE UF_NODUMP UF_NOUNLINK
        UF_OPAQUE UF_SETTABLE UF_TRACKED filemode""",
    "statistics": """
        NormalDist StatisticsError correlation covariance fmean geometric_mean harmonic_mean kde kde_random
        linear_regression mean median median_grouped median_high median_low mode multimode pstdev pvariance
        quantiles stdev variance""",
    "string": """
        Template ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits printable
        punctuation whitespace""",
    "struct": """
        Struct calcsize error iter_unpack pack pack_into unpack unpack_from""",
    "textwrap": """
        TextWrapper dedent fill indent shorten wrap""",
    "threading": """
        Barrier BoundedSemaphore BrokenBarrierError Condition Event Lock RLock Semaphore TIMEOUT_MAX Thread
        ThreadError Timer active_count current_thread enumerate get_ident get_native_id local main_thread""",
    "time": """
        CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_MONOTONIC_RAW CLOCK_PROCESS_CPUTIME_ID CLOCK_REALTIME CLOCK_TAI
        CLOCK_THREAD_CPUTIME_ID altzone asctime clock_getres clock_gettime clock_gettime_ns ctime daylight
        get_clock_info gmtime localtime mktime monotonic monotonic_ns perf_counter perf_counter_ns
        process_time process_time_ns sleep strftime strptime struct_time thread_time thread_time_ns time
        time_ns timezone tzname""",
    "tomllib": """
        TOMLDecodeError load loads""",
    "types": """
        AsyncGeneratorType BuiltinFunctionType BuiltinMethodType CapsuleType ClassMethodDescriptorType
        CoroutineType DynamicClassAttribute EllipsisType FunctionType GeneratorType GenericAlias
        GetSetDescriptorType LambdaType MappingProxyType MemberDescriptorType MethodDescriptorType
        MethodType MethodWrapperType NoneType NotImplementedType SimpleNamespace TracebackType UnionType
        WrapperDescriptorType get_original_bases new_class prepare_class resolve_bases""",
    "typing": """
        AbstractSet Annotated Any AnyStr AsyncContextManager AsyncGenerator AsyncIterable AsyncIterator
        Awaitable BinaryIO ByteString Callable ChainMap ClassVar Collection Concatenate Container
        ContextManager Coroutine Counter DefaultDict Deque Dict Final ForwardRef FrozenSet Generator Generic Hashable
        IO ItemsView Iterable Iterator KeysView List Literal LiteralString Mapping MappingView Match
        MutableMapping MutableSequence MutableSet NamedTuple Never NewType NoDefault NoReturn NotRequired
        Optional OrderedDict ParamSpec ParamSpecArgs ParamSpecKwargs Pattern Protocol ReadOnly Required
        Reversible Self Sequence Set Sized SupportsAbs SupportsBytes SupportsComplex SupportsFloat
        SupportsIndex SupportsInt SupportsRound TYPE_CHECKING Text TextIO Tuple Type TypeAlias TypeAliasType
        TypeGuard TypeIs TypeVar TypeVarTuple TypedDict Union Unpack ValuesView assert_never assert_type
        cast dataclass_transform final get_args get_origin get_overloads get_protocol_members is_protocol
        is_typeddict overload override reveal_type runtime_checkable""",
    "unicodedata": """
        bidirectional category combining decimal decomposition digit east_asian_width is_normalized lookup
        mirrored name normalize numeric unidata_version""",
    "urllib.parse": """
        DefragResult DefragResultBytes ParseResult ParseResultBytes SplitResult SplitResultBytes parse_qs
        parse_qsl quote quote_from_bytes quote_plus unquote unquote_plus unquote_to_bytes urldefrag
        urlencode urljoin urlparse urlsplit urlunparse urlunsplit _splittype""",
    "weakref": """
        CallableProxyType ProxyType ProxyTypes ReferenceType WeakKeyDictionary WeakMethod WeakSet
        WeakValueDictionary finalize getweakrefcount proxy ref""",
    "zlib": """
        DEFLATED DEF_BUF_SIZE DEF_MEM_LEVEL MAX_WBITS ZLIB_RUNTIME_VERSION ZLIB_VERSION Z_BEST_COMPRESSION
        Z_BEST_SPEED Z_BLOCK Z_DEFAULT_COMPRESSION Z_DEFAULT_STRATEGY Z_FILTERED Z_FINISH Z_FIXED
        Z_FULL_FLUSH Z_HUFFMAN_ONLY Z_NO_COMPRESSION Z_NO_FLUSH Z_PARTIAL_FLUSH Z_RLE Z_SYNC_FLUSH Z_TREES
        adler32 compress compressobj crc32 decompress decompressobj error""",
    "zoneinfo": """
        InvalidTZPathWarning ZoneInfo ZoneInfoNotFoundError available_timezones""",
}
