"""Asks a folder what lockstep and fixed sequences do not: one line a probe, its name and its answer.

`probes.py FOLDER`: the same on an ext4 and on the tree shows where the two differ.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
PROBES = []


def probe(function):
    """Registers a probe: its result is its answer, an OSError its errno."""
    PROBES.append(function)
    return function


def fresh(name='f', content=b'x' * 10000, flags=os.O_RDWR):
    with open(name, 'wb') as file:
        file.write(content)
    return os.open(name, flags)


def checked(outcome):
    if outcome < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return outcome


def allocate(mode, offset=4096, length=4096):
    offset, length = ctypes.c_long(offset), ctypes.c_long(length)
    checked(libc.fallocate(fresh(content=b'x' * 20000), mode, offset, length))
    return f'ok, {os.path.getsize("f")}'


@probe
def fallocate_plain(): return allocate(0, 20000, 4096)
@probe
def fallocate_keep_size(): return allocate(1, 20000, 4096)
@probe
def fallocate_punch_hole(): return allocate(3)
@probe
def fallocate_punch_hole_without_keep_size(): return allocate(2)
@probe
def fallocate_collapse_range(): return allocate(8)
@probe
def fallocate_zero_range(): return allocate(16, 18000, 4096)
@probe
def fallocate_insert_range(): return allocate(32)
@probe
def fallocate_unshare_range(): return allocate(64)


@probe
def file_of_17_mib(): os.truncate(fresh(), 17 << 20)
@probe
def write_behind_16_mib(): os.pwrite(fresh(), b'x', 16 << 20)
@probe
def fallocate_to_17_mib(): return allocate(0, 0, 17 << 20)


@probe
def open_tmpfile(): os.open('.', os.O_TMPFILE | os.O_RDWR)
@probe
def open_direct():
    file = fresh(flags=os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)
    return os.preadv(file, [block], 0), os.pwritev(file, [block], 4096)
@probe
def open_direct_unaligned(): return os.preadv(fresh(flags=os.O_RDWR | os.O_DIRECT), [bytearray(100)], 1)
@probe
def open_path():
    fresh()
    return stat.filemode(os.fstat(os.open('f', os.O_PATH)).st_mode)
@probe
def link_of_an_open_file_by_its_descriptor():
    file = fresh()
    checked(libc.linkat(-100, f'/proc/self/fd/{file}'.encode(), -100, b'linked', 0x400))
    return os.stat('linked').st_nlink
@probe
def link_of_an_unlinked_file():
    file = fresh()
    os.unlink('f')
    checked(libc.linkat(-100, f'/proc/self/fd/{file}'.encode(), -100, b'linked', 0x400))
@probe
def links_of_one_file():
    fresh()
    made = 1
    try:
        while made < 1100:
            os.link('f', f'l{made}')
            made += 1
    finally:
        for number in range(1, made):
            os.unlink(f'l{number}')


def renamed(flags, old=b'f', new=b'g'):
    fresh()
    checked(libc.renameat2(-100, old, -100, new, flags))
@probe
def rename_whiteout(): renamed(4)
@probe
def rename_noreplace(): renamed(1, new=b'n')
@probe
def rename_exchange_without_a_target(): renamed(2, new=b'nothing')
@probe
def rename_of_unknown_flags(): renamed(64)


def xattr(name, size):
    fresh()
    os.setxattr('f', name, b'v' * size)
    return len(os.getxattr('f', name))
@probe
def xattr_of_3000_bytes(): return xattr('user.some', 3000)
@probe
def xattr_of_20000_bytes(): return xattr('user.large', 20000)
@probe
def xattr_of_65536_bytes(): return xattr('user.largest', 65536)
@probe
def xattr_of_65537_bytes(): return xattr('user.larger', 65537)
@probe
def xattr_name_of_255_bytes(): return xattr('user.' + 'n' * 250, 1)
@probe
def xattr_name_of_256_bytes(): return xattr('user.' + 'n' * 251, 1)
@probe
def xattr_without_a_name(): return xattr('user.', 1)
@probe
def xattr_of_no_namespace(): return xattr('nothing.one', 1)
@probe
def xattr_of_the_system(): return xattr('system.one', 1)
@probe
def xattr_empty(): return xattr('user.empty', 0)
@probe
def xattr_user_of_a_symlink():
    os.symlink('f', 'xl')
    os.setxattr('xl', 'user.one', b'1', follow_symlinks=False)
@probe
def xattr_trusted_of_a_symlink():
    os.symlink('f', 'xt')
    os.setxattr('xt', 'trusted.one', b'1', follow_symlinks=False)
@probe
def xattr_create_twice():
    fresh()
    for _ in range(2):
        os.setxattr('f', 'user.once', b'1', os.XATTR_CREATE)
@probe
def xattr_replace_of_none():
    fresh()
    os.setxattr('f', 'user.none', b'1', os.XATTR_REPLACE)
@probe
def xattr_create_and_replace():
    fresh()
    os.setxattr('f', 'user.both', b'1', os.XATTR_CREATE | os.XATTR_REPLACE)
@probe
def xattr_into_a_small_buffer():
    fresh()
    os.setxattr('f', 'user.one', b'12345')
    buffer = ctypes.create_string_buffer(2)
    checked(libc.getxattr(b'f', b'user.one', buffer, 2))
@probe
def acl_of_an_access():
    fresh()
    entry = struct.pack('<HHI', 1, 6, 0xffffffff) + struct.pack('<HHI', 2, 4, 12)
    entry += b''.join(struct.pack('<HHI', tag, 4, 0xffffffff) for tag in (4, 16, 32))
    os.setxattr('f', 'system.posix_acl_access', struct.pack('<I', 2) + entry)


@probe
def ioctl_of_flags(): return fcntl.ioctl(fresh(), 0x80086601, bytes(8)) and 'ok'
@probe
# With the flag for extents, as ext4 has it: without, ext4 would move the blocks, which it refuses now and then.
def ioctl_of_immutable(): fcntl.ioctl(fresh(), 0x40086602, struct.pack('<l', 0x80000))
@probe
def ioctl_of_no_meaning(): fcntl.ioctl(fresh(), 0x12345678, bytes(8))
@probe
def ioctl_of_extents(): return fcntl.ioctl(fresh(), 0xc020660b, bytes(32)) and 'ok'
@probe
def ioctl_of_a_clone():
    other = fresh('clone')
    fcntl.ioctl(fresh(), 0x40049409, other)
@probe
def ioctl_of_waiting_bytes(): return struct.unpack('<i', fcntl.ioctl(fresh(), 0x541b, bytes(4)))[0]


@probe
def read_of_a_directory(): os.read(os.open('.', os.O_RDONLY), 10)
@probe
def open_of_a_directory_for_writing(): os.open('.', os.O_RDWR)
@probe
def open_creating_a_directory(): os.open('.', os.O_RDONLY | os.O_CREAT)
@probe
def mkdir_with_a_slash(): os.mkdir('slash/')
@probe
def open_with_a_slash():
    fresh()
    os.open('f/', os.O_RDONLY)
@probe
def rmdir_of_dot(): os.rmdir('.')
@probe
def rename_of_dot(): os.rename('.', 'dot')
@probe
def rename_into_itself():
    os.makedirs('r/s')
    os.rename('r', 'r/s/t')
@probe
def symlink_of_4095_bytes():
    os.symlink('t' * 4095, 'long')
    return len(os.readlink('long')), os.lstat('long').st_size
@probe
def symlink_to_nothing(): os.symlink('', 'empty')
@probe
def name_of_255_bytes():
    os.mkdir('n' * 255)
    return 'n' * 255 in os.listdir('.')
@probe
def name_that_is_not_utf8():
    os.mkdir(b'\xff\xfe')
    return b'\xff\xfe' in os.listdir(b'.')
@probe
def setgid_directory():
    os.mkdir('sg')
    os.chown('sg', -1, 34)
    os.chmod('sg', 0o2775)
    os.mkdir('sg/d')
    fresh('sg/f')
    return oct(os.stat('sg/d').st_mode), os.stat('sg/d').st_gid, os.stat('sg/f').st_gid
@probe
def sticky_directory():
    os.mkdir('st', 0o777)
    os.chmod('st', 0o1777)
    fresh('st/f')
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        try:
            os.unlink('st/f')
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (errno.EPERM, errno.EACCES)
@probe
def times_before_1970():
    fresh()
    os.utime('f', ns=(-1_500_000_000, -1_500_000_000))
    return os.stat('f').st_mtime_ns
@probe
def times_after_2038():
    fresh()
    os.utime('f', ns=(5_000_000_000_123_456_789, 5_000_000_000_123_456_789))
    return os.stat('f').st_mtime_ns
@probe
def times_after_2446():
    fresh()
    os.utime('f', (20_000_000_000, 20_000_000_000))
    return int(os.stat('f').st_mtime)
@probe
def atime_of_a_read():
    file = fresh()
    os.utime('f', (1000, 2_000_000_000))
    os.read(file, 10)
    return os.stat('f').st_atime == 1000
@probe
def atime_of_utime():
    fresh()
    os.utime('f', (1234, 5678))
    return int(os.stat('f').st_atime), int(os.stat('f').st_mtime)
@probe
def owner_of_a_chown_without_rights():
    fresh()
    os.chmod('f', 0o6755)
    os.chown('f', 12, 34)
    return oct(os.stat('f').st_mode)
@probe
def blocks_of_a_hole():
    os.truncate(fresh(content=b''), 1 << 20)
    return os.stat('f').st_blocks
@probe
def blocks_of_a_file():
    os.fsync(fresh(content=b'x' * 8192))
    return os.stat('f').st_blocks
@probe
def block_size():
    fresh()
    return os.stat('f').st_blksize, os.statvfs('.').f_bsize, os.statvfs('.').f_namemax


@probe
def running_program_is_written():
    with open('/bin/true', 'rb') as program:
        os.close(fresh('run', program.read()))
    os.chmod('run', 0o755)
    held = os.open('run', os.O_RDWR)
    try:
        os.posix_spawn('run', ['run'], {})
    finally:
        os.close(held)
@probe
def set_user_id_program():
    with open('/usr/bin/id', 'rb') as program:
        os.close(fresh('id', program.read()))
    os.chown('id', 12, 34)
    os.chmod('id', 0o4755)
    import subprocess
    return subprocess.run(['./id', '-u'], capture_output=True, text=True).stdout.strip()
@probe
def device_of_the_tree():
    os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(os.open('null', os.O_RDONLY))
@probe
def fifo_of_the_tree():
    os.mkfifo('fifo')
    file = os.open('fifo', os.O_RDWR | os.O_NONBLOCK)
    os.write(file, b'through')
    return os.read(file, 10)
@probe
def lease():
    file = fresh(flags=os.O_RDONLY)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
@probe
def flock_twice():
    fcntl.flock(fresh(), fcntl.LOCK_EX)
    one = os.open('f', os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
@probe
def lock_of_the_open_file():
    range_of = struct.pack('hhlli4x', fcntl.F_WRLCK, 0, 0, 10, 0)
    fcntl.fcntl(fresh(), 37, range_of)
    fcntl.fcntl(os.open('f', os.O_RDWR), 37, range_of)
@probe
def handle_by_name():
    fresh()
    buffer = ctypes.create_string_buffer(136)
    struct.pack_into('<I', buffer, 0, 128)
    checked(libc.name_to_handle_at(-100, b'f', buffer, ctypes.byref(ctypes.c_int()), 0))
@probe
def private_mapping():
    page = mmap.mmap(fresh(), 4096, mmap.MAP_PRIVATE)
    page[0:1] = b'y'
    return os.pread(os.open('f', os.O_RDONLY), 1, 0)
@probe
def shared_mapping_of_a_reader():
    return mmap.mmap(fresh(flags=os.O_RDONLY), 4096, mmap.MAP_SHARED, mmap.PROT_READ)[0]
@probe
def mapping_that_runs():
    mmap.mmap(fresh(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
@probe
def data_of_an_empty_file(): return os.lseek(fresh(content=b''), 0, os.SEEK_DATA)
@probe
def hole_at_the_end(): return os.lseek(fresh(), 9999, os.SEEK_HOLE)
@probe
def holes_between_blocks():
    file = fresh(content=b'')
    os.pwrite(file, b'x' * 4096, 1 << 20)
    os.truncate(file, 3 << 20)
    os.fsync(file)
    data = os.lseek(file, 0, os.SEEK_DATA)
    return data, os.lseek(file, data, os.SEEK_HOLE), os.lseek(file, 0, os.SEEK_HOLE)
@probe
def size_of_a_directory_of_two():
    os.makedirs('sg/d')
    fresh('sg/f')
    return os.stat('sg').st_size
@probe
def links_of_a_directory_of_one():
    os.makedirs('sg/d')
    return os.stat('sg').st_nlink
@probe
def position_in_a_directory():
    os.mkdir('many')
    for number in range(500):
        os.mkdir(f'many/{number}')
    names = os.listdir('many')
    for name in names[:250]:
        os.rmdir(f'many/{name}')
    return len(set(names)), len(os.listdir('many'))
@probe
def removal_while_listing():
    removed = 0
    os.mkdir('many')
    for number in range(500):
        os.mkdir(f'many/{number}')
    with os.scandir('many') as entries:
        for entry in entries:
            os.rmdir(entry.path)
            removed += 1
    os.rmdir('many')
    return removed
@probe
def swap_file():
    os.close(fresh(content=bytes(1 << 20)))
    checked(libc.swapon(b'f', 0))
@probe
def birth_time():
    fresh()
    buffer = ctypes.create_string_buffer(256)
    checked(libc.statx(-100, b'f', 0, 0x800, buffer))
    return bool(struct.unpack_from('<I', buffer, 0)[0] & 0x800)
@probe
def range_sync(): checked(libc.sync_file_range(fresh(), ctypes.c_long(0), ctypes.c_long(4096), 7))
@probe
def filesystem_sync(): checked(libc.syncfs(fresh()))
@probe
def advice():
    file = fresh()
    return [os.posix_fadvise(file, 0, 4096, kind) for kind in range(6)]
@probe
def sendfile_between_files(): return os.sendfile(fresh('to', b''), fresh(), 0, 10000)
@probe
def splice_into_a_pipe():
    read, write = os.pipe()
    return os.splice(fresh(), write, 5000, offset_src=0), len(os.read(read, 10000))
@probe
def copy_file_range_between_files(): return os.copy_file_range(fresh(), fresh('to', b''), 10000)
@probe
def append_by_pwrite():
    file = fresh(content=b'abc', flags=os.O_RDWR | os.O_APPEND)
    os.pwrite(file, b'd', 0)
    return os.pread(file, 10, 0)
@probe
def append_without_append():
    file = fresh(content=b'abc', flags=os.O_RDWR | os.O_APPEND)
    fcntl.fcntl(file, fcntl.F_SETFL, 0)
    os.pwrite(file, b'd', 0)
    return os.pread(file, 10, 0)
@probe
def append_turned_on():
    file = fresh(content=b'abc')
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    os.pwrite(file, b'd', 0)
    os.write(file, b'e')
    return os.pread(file, 10, 0)
@probe
def write_of_no_bytes():
    file = fresh(content=b'')
    return os.write(file, b''), os.fstat(file).st_size
@probe
def write_far_behind_the_end(): os.pwrite(fresh(), b'x', (1 << 62))
@probe
def write_of_a_vector(): return os.writev(fresh(), [b'a' * 3000] * 700)
@probe
def size_limit_of_the_process():
    import resource
    import signal
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            os._exit(100 if os.pwrite(fresh(content=b''), b'x' * 8000, 0) == 5000 else 101)
        except OSError as error:
            os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    os.umask(0o022)
    for ask in PROBES:
        # What one probe leaves must not answer the next.
        os.mkdir(os.path.join(folder, ask.__name__))
        os.chdir(os.path.join(folder, ask.__name__))
        try:
            answer = ask()
        except OSError as error:
            answer = errno.errorcode.get(error.errno, error.errno)
        print(ask.__name__, answer if answer is not None else 'ok', flush=True)


if __name__ == '__main__':
    main(sys.argv[1])
