"""Several processes that come and go and count in one file: `several_writers.py KIND PATH PROCESSES ROUNDS`.

Each round adds one, under the lock of its kind. In the end the number must be PROCESSES times ROUNDS.
"""
import fcntl
import mmap
import os
import sqlite3
import struct
import sys

BUSY_SECONDS = 60


SYNCHRONOUS = ['off', 'normal', 'full']


def sqlite_connection(path, mode):
    """`wal:full`: the journal, and when it is made durable."""
    journal, synchronous = mode.split(':')
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    assert database.execute(f'PRAGMA journal_mode={journal}').fetchone()[0] == journal
    database.execute(f'PRAGMA synchronous={synchronous}')
    assert database.execute('PRAGMA synchronous').fetchone()[0] == SYNCHRONOUS.index(synchronous)
    return database


def sqlite_begin(path, mode):
    database = sqlite_connection(path, mode)
    database.execute('CREATE TABLE t(n)')
    database.execute('INSERT INTO t VALUES (0)')
    database.close()


def sqlite_add(path, mode, _rounds):
    """A connection for each round."""
    while True:
        database = sqlite_connection(path, mode)
        database.execute('BEGIN IMMEDIATE')
        database.execute('UPDATE t SET n=n+1')
        database.execute('COMMIT')
        database.close()
        yield


def sqlite_end(path, mode):
    database = sqlite_connection(path, mode)
    assert database.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
    return database.execute('SELECT n FROM t').fetchone()[0]


def lmdb_open(path, mode):
    import lmdb
    return lmdb.open(path, map_size=1 << 20, writemap=mode == 'writemap', max_readers=16)


def lmdb_begin(path, mode):
    with lmdb_open(path, mode) as database, database.begin(write=True) as change:
        change.put(b'n', b'0')


def lmdb_add(path, mode, _rounds):
    while True:
        with lmdb_open(path, mode) as database, database.begin(write=True) as change:
            change.put(b'n', str(int(change.get(b'n')) + 1).encode())
        yield


def lmdb_end(path, mode):
    with lmdb_open(path, mode) as database, database.begin() as look:
        return int(look.get(b'n'))


def mapped_begin(path, _mode):
    with open(path, 'wb') as file:
        file.write(bytes(8192))


def mapped_add(path, mode, _rounds):
    """`once` keeps its mapping, `anew` maps for each round, `mixed` also writes beside the number by write(2)."""
    def opened():
        file = open(path, 'r+b', buffering=0)
        return file, mmap.mmap(file.fileno(), 8192)
    file, page = opened()
    turn = 0
    while True:
        if mode != 'once':
            page.close()
            file.close()
            file, page = opened()
        fcntl.flock(file, fcntl.LOCK_EX)
        number, = struct.unpack_from('<Q', page, 4000)
        struct.pack_into('<Q', page, 4000, number + 1)
        if mode == 'mixed':
            turn += 1
            os.pwrite(file.fileno(), struct.pack('<Q', number + 1), 6000)
            assert struct.unpack_from('<Q', page, 6000)[0] == number + 1, 'a mapping does not show a write'
            assert struct.unpack('<Q', os.pread(file.fileno(), 8, 4000))[0] == number + 1, 'a read shows no store'
            if turn % 7 == 0:
                page.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        yield


def mapped_end(path, _mode):
    with open(path, 'rb') as file:
        return struct.unpack_from('<Q', file.read(), 4000)[0]


def main(kind, path, processes, rounds):
    name, mode = kind.split('-')
    begin, add, end = (globals()[f'{name}_{step}'] for step in ('begin', 'add', 'end'))
    begin(path, mode)
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            step = add(path, mode, rounds)
            for _ in range(rounds):
                next(step)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, 'a writer failed'
    seen = end(path, mode)
    assert seen == processes * rounds, f'{kind}: {seen} of {processes * rounds} are there'


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
