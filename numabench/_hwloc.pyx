# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Thin layer over libhwloc (2.4 or newer): the only place that reads topology.

``load`` returns plain dictionaries and tuples; no hwloc object outlives the call. Five facts that hwloc
leaves out or fills in (CPUs of a node as the kernel has them, global huge page counts, the distance of a
single node, possible nodes, the hypervisor flag) are read from the same tree, by ``_files``.
"""

import _thread
import os

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport strerror

from numabench.errors import TopologyError

# Flag of hwloc 2.5 (value fixed by its ABI): discovery must not migrate the calling thread.
cdef unsigned long _DONT_CHANGE_BINDING = 1UL << 6
cdef int _MAX_INDEX = 1 << 20  # above any Linux CPU or node number; a larger one comes from a damaged file
cdef int _MAX_XML = 256 << 20

_LOCK = _thread.allocate_lock()
_STEERING = (  # variables that would make hwloc read something other than what was asked
    "HWLOC_XMLFILE", "HWLOC_SYNTHETIC", "HWLOC_FSROOT", "HWLOC_CPUID_PATH", "HWLOC_COMPONENTS", "HWLOC_THISSYSTEM",
    "HWLOC_THISSYSTEM_ALLOWED_RESOURCES", "HWLOC_DUMPED_HWDATA_DIR", "HWLOC_HIDE_ERRORS", "HWLOC_XML_VERBOSE",
    "HWLOC_DEBUG_CHECK",
)
# Compute runtimes start their drivers when asked; the kernel already says which devices exist and where.
_HERE = {"HWLOC_COMPONENTS": "-opencl,-cuda,-nvml,-rsmi,-levelzero,-gl"}


cdef tuple _ids(hwloc_const_bitmap_t bitmap):
    cdef int i
    if bitmap == NULL:
        return ()
    if hwloc_bitmap_weight(bitmap) < 0:
        raise TopologyError("topology holds an unbounded set of CPUs or nodes: the file is damaged, capture it again")
    out = []
    i = hwloc_bitmap_next(bitmap, -1)
    while i >= 0:
        if i >= _MAX_INDEX or len(out) >= _MAX_INDEX:
            raise TopologyError(f"topology names CPU or node {i}: the file is damaged, capture it again")
        out.append(i)
        i = hwloc_bitmap_next(bitmap, i)
    return tuple(out)


cdef str _text(const char *raw):
    return "" if raw == NULL else raw.decode("utf-8", "replace")


cdef dict _infos(hwloc_info_s *infos, unsigned count):
    cdef unsigned i
    return {_text(infos[i].name): _text(infos[i].value) for i in range(count)}


cdef class _Topology:
    """Owner of one hwloc topology; the destructor runs on every path, also when loading fails half way."""

    cdef hwloc_topology_t t

    def __cinit__(self):
        self.t = NULL
        if hwloc_topology_init(&self.t) != 0:
            self.t = NULL
            raise TopologyError("hwloc_topology_init: incompatible libhwloc or no memory; install hwloc 2.4 or newer")

    def __dealloc__(self):
        if self.t != NULL:
            hwloc_topology_destroy(self.t)

    cdef load(self, str what, bytes xml, bint here):
        cdef unsigned long flags = HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED
        if not here or hwloc_topology_set_flags(self.t, flags | _DONT_CHANGE_BINDING) != 0:
            if hwloc_topology_set_flags(self.t, flags) != 0:
                raise TopologyError(f"hwloc_topology_set_flags: {_text(strerror(errno))}; install hwloc 2.4 or newer")
        hwloc_topology_set_all_types_filter(self.t, HWLOC_TYPE_FILTER_KEEP_ALL)
        hwloc_topology_set_io_types_filter(self.t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT)
        # hwloc wants the terminating NUL counted in; bytes always carry one.
        if xml is not None and hwloc_topology_set_xmlbuffer(self.t, xml, <int>(len(xml) + 1)) != 0:
            raise TopologyError(f"{what}: not readable as hwloc XML ({_text(strerror(errno))}); "
                                "export it with: lstopo FILE.xml")
        if hwloc_topology_load(self.t) != 0:
            remedy = "mount /sys" if here else "capture it again with lstopo or hwloc-gather-topology"
            raise TopologyError(f"{what}: hwloc cannot load this topology ({_text(strerror(errno))}); {remedy}")

    cdef dict read(self):
        cdef int depth
        cdef hwloc_obj_t root = hwloc_get_root_obj(self.t)
        cdef hwloc_obj_t obj
        cdef unsigned i
        infos = _infos(root.infos, root.infos_count)
        data = {
            "hwloc": infos.get("hwlocVersion") or _version(hwloc_get_api_version()), "infos": infos,
            "complete_cpus": _ids(root.complete_cpuset),
            "allowed_cpus": _ids(hwloc_topology_get_allowed_cpuset(self.t)),
            "allowed_nodes": _ids(hwloc_topology_get_allowed_nodeset(self.t)),
            "pus": [], "cores": [], "packages": [], "caches": [], "nodes": [], "devices": [],
            "distances": self.distances(), "memory_attributes": self.memory_attributes(), "kinds": self.kinds(),
        }
        for depth in range(hwloc_topology_get_depth(self.t)):
            for i in range(hwloc_get_nbobjs_by_depth(self.t, depth)):
                obj = hwloc_get_obj_by_depth(self.t, depth, i)
                if obj.type == HWLOC_OBJ_PU:
                    data["pus"].append(int(obj.os_index))
                elif obj.type == HWLOC_OBJ_CORE:
                    data["cores"].append(_ids(obj.cpuset))
                elif obj.type == HWLOC_OBJ_PACKAGE:
                    data["packages"].append((_index(obj), _ids(obj.cpuset)))
                    for key, value in _infos(obj.infos, obj.infos_count).items():
                        data["infos"].setdefault(key, value)
                elif HWLOC_OBJ_L1CACHE <= obj.type <= HWLOC_OBJ_L3ICACHE and obj.attr != NULL:
                    data["caches"].append(_cache(obj))
        for i in range(hwloc_get_nbobjs_by_depth(self.t, HWLOC_TYPE_DEPTH_NUMANODE)):
            data["nodes"].append(_node(hwloc_get_obj_by_depth(self.t, HWLOC_TYPE_DEPTH_NUMANODE, i)))
        for depth in (HWLOC_TYPE_DEPTH_OS_DEVICE, HWLOC_TYPE_DEPTH_PCI_DEVICE):
            for i in range(hwloc_get_nbobjs_by_depth(self.t, depth)):
                obj = hwloc_get_obj_by_depth(self.t, depth, i)
                data["devices"].append(_device(obj, hwloc_get_non_io_ancestor_obj(self.t, obj)))
        data["devices"] = [device for device in data["devices"] if device is not None]
        return data

    cdef dict distances(self):
        """{(from node, to node): value} of the first matrix of latencies that the firmware gives."""
        cdef unsigned nr = 1, i, j
        cdef hwloc_distances_s *found = NULL
        cdef unsigned long kind = HWLOC_DISTANCES_KIND_FROM_OS | HWLOC_DISTANCES_KIND_MEANS_LATENCY
        if hwloc_distances_get_by_depth(self.t, HWLOC_TYPE_DEPTH_NUMANODE, &nr, &found, kind, 0) != 0 or found == NULL:
            return {}
        try:
            return {(int(found.objs[i].os_index), int(found.objs[j].os_index)): int(found.values[i * found.nbobjs + j])
                    for i in range(found.nbobjs) for j in range(found.nbobjs)
                    if found.objs[i] != NULL and found.objs[j] != NULL}
        finally:
            hwloc_distances_release(self.t, found)

    cdef list memory_attributes(self):
        """[(attribute, target node, initiator CPUs, value)], attributes of (initiator, target) pairs only."""
        cdef unsigned attribute = 0, nr, capacity, i, n
        cdef const char *name
        cdef unsigned long flags
        cdef hwloc_obj_t node
        cdef hwloc_location *initiators
        cdef uint64_t *values
        out = []
        while hwloc_memattr_get_name(self.t, attribute, &name) == 0:
            flags = 0
            hwloc_memattr_get_flags(self.t, attribute, &flags)
            if flags & HWLOC_MEMATTR_FLAG_NEED_INITIATOR:
                for n in range(hwloc_get_nbobjs_by_depth(self.t, HWLOC_TYPE_DEPTH_NUMANODE)):
                    node = hwloc_get_obj_by_depth(self.t, HWLOC_TYPE_DEPTH_NUMANODE, n)
                    nr = 0
                    if hwloc_memattr_get_initiators(self.t, attribute, node, 0, &nr, NULL, NULL) != 0 or nr == 0:
                        continue
                    capacity = nr
                    initiators = <hwloc_location *>PyMem_Malloc(capacity * sizeof(hwloc_location))
                    values = <uint64_t *>PyMem_Malloc(capacity * sizeof(uint64_t))
                    try:
                        if initiators == NULL or values == NULL:
                            raise MemoryError()
                        if hwloc_memattr_get_initiators(self.t, attribute, node, 0, &nr, initiators, values) != 0:
                            continue
                        for i in range(min(nr, capacity)):
                            if initiators[i].type == HWLOC_LOCATION_TYPE_CPUSET:
                                cpus = _ids(initiators[i].location.cpuset)
                            elif initiators[i].location.object != NULL:
                                cpus = _ids(initiators[i].location.object.cpuset)
                            else:
                                continue
                            out.append((_text(name), int(node.os_index), cpus, int(values[i])))
                    finally:
                        PyMem_Free(initiators)
                        PyMem_Free(values)
            attribute += 1
        return out

    cdef list kinds(self):
        """[(CPUs, efficiency or -1, {attribute: value})], least powerful kind first; empty when not known."""
        cdef int nr = hwloc_cpukinds_get_nr(self.t, 0), efficiency, k
        cdef unsigned count
        cdef hwloc_info_s *infos
        cdef hwloc_bitmap_t cpus
        out = []
        for k in range(nr):
            cpus = hwloc_bitmap_alloc()
            if cpus == NULL:
                raise MemoryError()
            try:
                efficiency, count, infos = -1, 0, NULL
                if hwloc_cpukinds_get_info(self.t, k, cpus, &efficiency, &count, &infos, 0) == 0:
                    out.append((_ids(cpus), efficiency, _infos(infos, count)))
            finally:
                hwloc_bitmap_free(cpus)
        return out


cdef str _version(unsigned api):
    return f"{api >> 16}.{(api >> 8) & 255}.{api & 255}"


cdef object _index(hwloc_obj_t obj):
    return None if obj.os_index == <unsigned>HWLOC_UNKNOWN_INDEX else int(obj.os_index)


cdef tuple _cache(hwloc_obj_t obj):
    cdef int kind = obj.attr.cache.type
    name = "unified" if kind == HWLOC_OBJ_CACHE_UNIFIED else "data" if kind == HWLOC_OBJ_CACHE_DATA else "instruction"
    return (int(obj.attr.cache.depth), name, int(obj.attr.cache.size), int(obj.attr.cache.linesize), _ids(obj.cpuset))


cdef dict _node(hwloc_obj_t obj):
    cdef unsigned i
    cdef hwloc_obj_t parent = obj.parent
    cdef hwloc_numanode_attr_s *attr = &obj.attr.numanode
    side = []
    while parent != NULL and parent.type == HWLOC_OBJ_MEMCACHE:
        side.append((int(parent.attr.cache.depth), int(parent.attr.cache.size), int(parent.attr.cache.linesize)))
        parent = parent.parent
    pages = {int(attr.page_types[i].size): int(attr.page_types[i].count) for i in range(attr.page_types_len)}
    return {"id": int(obj.os_index), "cpus": _ids(obj.cpuset), "memory_bytes": int(attr.local_memory), "pages": pages,
            "subtype": _text(obj.subtype), "side_caches": tuple(side)}


cdef object _device(hwloc_obj_t obj, hwloc_obj_t near):
    """(name, kind, PCI address or "", nodes near it, subtype), or None for a PCI device of no interest here."""
    cdef hwloc_obj_t pci = obj
    cdef int kind
    while pci != NULL and pci.type != HWLOC_OBJ_PCI_DEVICE:
        pci = pci.parent
    address = ""
    if pci != NULL and pci.attr != NULL:
        address = (f"{pci.attr.pcidev.domain:04x}:{pci.attr.pcidev.bus:02x}:"
                   f"{pci.attr.pcidev.dev:02x}.{pci.attr.pcidev.func:x}")
    nodes = () if near == NULL else _ids(near.nodeset)
    if obj.type == HWLOC_OBJ_PCI_DEVICE:
        # Base classes of the PCI code list: 03 display, 12 processing accelerator. Others show as OS devices.
        if obj.io_first_child != NULL or (obj.attr.pcidev.class_id >> 8) not in (0x03, 0x12):
            return None
        return (address, "gpu" if obj.attr.pcidev.class_id >> 8 == 0x03 else "coprocessor", address, nodes, "")
    kind = obj.attr.osdev.type
    name = {HWLOC_OBJ_OSDEV_BLOCK: "block", HWLOC_OBJ_OSDEV_GPU: "gpu", HWLOC_OBJ_OSDEV_NETWORK: "network",
            HWLOC_OBJ_OSDEV_OPENFABRICS: "infiniband", HWLOC_OBJ_OSDEV_DMA: "dma"}.get(kind, "coprocessor")
    return (_text(obj.name), name, address, nodes, _text(obj.subtype))


def _read(root, path):
    """First line of a file of the tree, without the NUL bytes that some captures end in; None when unreadable."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.readline().replace(b"\0", b"").strip().decode("ascii", "replace")
    except OSError:
        return None


def _lines(root, path):
    """Lines of a text file of the tree; none when unreadable."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError:
        return


def _mask(text):
    """CPU numbers of a sysfs mask such as 0000,00000011 (words of 32 bits, the highest first)."""
    try:
        bits = int(text.replace(",", "") or "0", 16)
    except ValueError:
        return ()
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def _list(text):
    """Numbers of a sysfs list such as 0-3,8."""
    out = set()
    try:
        for part in (text or "").split(","):
            if part:
                low, _, high = part.partition("-")
                out.update(range(int(low), min(int(high or low), _MAX_INDEX) + 1))
    except ValueError:
        return ()
    return tuple(sorted(out))


def _files(root, node_ids):
    """What hwloc does not tell, read from the same tree."""
    sys_node, pages = "sys/devices/system/node", "sys/kernel/mm/hugepages"
    own, huge = {}, {}
    for node in node_ids:
        mask = _read(root, f"{sys_node}/node{node}/cpumap")
        cpus = _mask(mask) if mask else _list(_read(root, f"{sys_node}/node{node}/cpulist"))
        if mask is not None or cpus:
            own[node] = cpus
    try:
        for entry in os.listdir(os.path.join(root, pages)):
            count = _read(root, f"{pages}/{entry}/nr_hugepages")
            if count and count.isdigit() and entry.startswith("hugepages-") and entry.endswith("kB"):
                huge[int(entry[10:-2]) * 1024] = int(count)
    except (OSError, ValueError):
        pass
    rows = {node: _read(root, f"{sys_node}/node{node}/distance") for node in node_ids} if len(node_ids) == 1 else {}
    flags = next((line for line in _lines(root, "proc/cpuinfo") if line.startswith("flags")), "")
    # Written by the capturing tool; not there on this machine.
    size = next((line for line in _lines(root, "proc/hwloc-nofile-info") if line.startswith("PageSize:")), "")
    size = size.partition(":")[2].strip()
    version = (_read(root, "proc/version") or "").split()
    return {
        "own_cpus": own, "huge_pages": dict(sorted(huge.items())), "hypervisor": "hypervisor" in flags.split(),
        "possible_nodes": _list(_read(root, f"{sys_node}/possible")),
        "distances": {(n, n): int(row) for n, row in rows.items() if row and row.isdigit()},
        "page_bytes": os.sysconf("SC_PAGE_SIZE") if root == "/" else int(size) if size.isdigit() else 0,
        "kernel": " ".join((version[0], version[2])) if len(version) > 2 and version[1] == "version" else "",
        "allowed_nodes": _allowed_nodes() if root == "/" else None,
    }


def _allowed_nodes():
    """Mems_allowed_list of this process: what the kernel enforces, whatever cgroup files are visible here."""
    for line in _lines("/", "proc/self/status"):
        if line.startswith("Mems_allowed_list:"):
            return _list(line.partition(":")[2].strip())
    return None


def _xml(source):
    try:
        with open(source, "rb") as file:
            data = file.read(_MAX_XML + 1)
    except OSError as error:
        raise TopologyError(f"{source}: {error.strerror}; give a readable hwloc XML file") from error
    if len(data) > _MAX_XML or b"<topology" not in data or b"\0" in data:
        raise TopologyError(f"{source}: not an hwloc XML file; export one with: lstopo FILE.xml")
    return data


cdef dict _swap_environment(dict wanted):
    """Set or unset (None) C environment variables; returns what they were. The caller holds _LOCK."""
    cdef char *old
    before = {}
    for name, value in wanted.items():
        key = os.fsencode(name)
        old = getenv(key)
        before[name] = None if old == NULL else os.fsdecode(<bytes>old)
        if value is None:
            unsetenv(key)
        else:
            setenv(key, os.fsencode(value), 1)
    return before


def load(source=None):
    """Read the topology of this machine (None), of an hwloc XML file or of a captured Linux tree (a directory).

    Variables HWLOC_* do not redirect it. hwloc takes the root of a tree only from the environment, so the
    environment of the process changes for the milliseconds of the call and is put back: other Python threads
    cannot see that (a lock and the GIL are held), but C threads that call getenv meanwhile must not run.
    Raises TopologyError, which says what to do, for whatever cannot be read.
    """
    environment = dict.fromkeys(_STEERING)
    environment["HWLOC_HIDE_ERRORS"] = "2"
    # hwloc leaves nodes out whose CPUs another one lists too; Linux has such nodes (numa=fake) and places pages there.
    environment["HWLOC_DEBUG_ALLOW_OVERLAPPING_NODE_CPUSETS"] = "1"
    what, xml, root = "this machine", None, "/"
    if hwloc_get_api_version() >> 16 != HWLOC_API_VERSION >> 16:
        raise TopologyError(f"libhwloc {_version(hwloc_get_api_version())} differs from the one numabench was built "
                            f"with ({_version(HWLOC_API_VERSION)}); rebuild numabench")
    if source is None:
        environment.update(_HERE)
    else:
        what = source = os.fspath(source)
        if os.path.isdir(source):
            root = os.path.abspath(source)
            if not os.path.isdir(os.path.join(root, "sys/devices/system/cpu")):
                raise TopologyError(f"{source}: no sys/devices/system/cpu below it; "
                                    "capture a machine with hwloc-gather-topology")
            # "stop": no other component may add what it finds on this machine.
            environment.update(HWLOC_FSROOT=root, HWLOC_COMPONENTS="linux,stop", HWLOC_THISSYSTEM="0")
        elif os.path.isfile(source):
            root, xml = None, _xml(source)
        else:
            raise TopologyError(f"{source}: no such file or directory; give an hwloc XML file or a captured tree"
                                if not os.path.exists(source) else f"{source}: neither a file nor a directory")
    cdef _Topology topology
    with _LOCK:
        before = _swap_environment(environment)
        try:
            topology = _Topology()
            topology.load(what, xml, source is None)
            data = topology.read()
        finally:
            _swap_environment(before)
    if not data["pus"] or not data["nodes"]:
        raise TopologyError(f"{what}: no CPUs or no nodes in it; capture it again with lstopo or hwloc-gather-topology")
    data["files"] = None if root is None else _files(root, [node["id"] for node in data["nodes"]])
    return data
