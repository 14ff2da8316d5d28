//go:build lmdb && cgo

package main

/*
#cgo LDFLAGS: -llmdb
#include <lmdb.h>
#include <stdlib.h>

// These take plain pointers, so that a call passes nothing that points to Go
// memory with pointers in it.
static int bench_get(MDB_txn *t, MDB_dbi d, void *k, size_t n, void **v, size_t *m) {
	MDB_val key = {n, k}, value;
	int r = mdb_get(t, d, &key, &value);
	if (r == 0) { *v = value.mv_data; *m = value.mv_size; }
	return r;
}
static int bench_put(MDB_txn *t, MDB_dbi d, void *k, size_t n, void *v, size_t m) {
	MDB_val key = {n, k}, value = {m, v};
	return mdb_put(t, d, &key, &value, 0);
}
static int bench_del(MDB_txn *t, MDB_dbi d, void *k, size_t n) {
	MDB_val key = {n, k};
	return mdb_del(t, d, &key, NULL);
}
static int bench_cursor(MDB_cursor *c, MDB_cursor_op op, void *seek, size_t seekn, void **k, size_t *n, void **v, size_t *m) {
	MDB_val key = {seekn, seek}, value;
	int r = mdb_cursor_get(c, &key, &value, op);
	if (r == 0) { *k = key.mv_data; *n = key.mv_size; *v = value.mv_data; *m = value.mv_size; }
	return r;
}
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

func init() {
	kinds = append(kinds, kind{name: "lmdb", open: openLMDB, transactions: true, cgo: true})
}

// LMDB is called through cgo, with its default flags, MDB_NOTLS, which Go needs,
// MDB_NOSYNC without durability, and MDB_NORDAHEAD for cold workloads, as its
// documentation advises for data that do not fit in memory.
type lmdbStore struct {
	env *C.MDB_env
	dbi C.MDB_dbi
}

func lmdbErr(code C.int) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("lmdb: %s", C.GoString(C.mdb_strerror(code)))
}

func openLMDB(s settings) (engine, error) {
	l := &lmdbStore{}
	if code := C.mdb_env_create(&l.env); code != 0 {
		return nil, lmdbErr(code)
	}
	C.mdb_env_set_mapsize(l.env, 32<<30)
	flags := C.uint(C.MDB_NOTLS)
	if !s.sync {
		flags |= C.MDB_NOSYNC
	}
	if s.cold {
		flags |= C.MDB_NORDAHEAD
	}
	dir := C.CString(s.dir)
	defer C.free(unsafe.Pointer(dir))
	if code := C.mdb_env_open(l.env, dir, flags, 0o600); code != 0 {
		return nil, lmdbErr(code)
	}
	return l, l.write(func(tx lmdbTx) error { return lmdbErr(C.mdb_dbi_open(tx.tx, nil, 0, &l.dbi)) })
}

func (l *lmdbStore) close() error {
	err := lmdbErr(C.mdb_env_sync(l.env, 1))
	C.mdb_env_close(l.env)
	return err
}

func (l *lmdbStore) worker() worker { return lmdbWorker{l} }

type lmdbTx struct {
	*lmdbStore
	tx *C.MDB_txn
}

// write runs fn in a write transaction, which belongs to a thread.
func (l *lmdbStore) write(fn func(tx lmdbTx) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tx := lmdbTx{lmdbStore: l}
	if code := C.mdb_txn_begin(l.env, nil, 0, &tx.tx); code != 0 {
		return lmdbErr(code)
	}
	if err := fn(tx); err != nil {
		C.mdb_txn_abort(tx.tx)
		return err
	}
	return lmdbErr(C.mdb_txn_commit(tx.tx))
}

func (l *lmdbStore) read() (lmdbTx, error) {
	tx := lmdbTx{lmdbStore: l}
	return tx, lmdbErr(C.mdb_txn_begin(l.env, nil, C.MDB_RDONLY, &tx.tx))
}

type lmdbWorker struct{ *lmdbStore }

func (w lmdbWorker) get(key []byte, use func(value []byte) error) (bool, error) {
	tx, err := w.read()
	if err != nil {
		return false, err
	}
	defer C.mdb_txn_abort(tx.tx)
	return tx.get(key, use)
}

func (w lmdbWorker) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	tx, err := w.read()
	if err != nil {
		return err
	}
	defer C.mdb_txn_abort(tx.tx)
	return tx.scan(from, backwards, n, use)
}

func (w lmdbWorker) set(key, value []byte) error {
	return w.write(func(tx lmdbTx) error { return tx.set(key, value) })
}

func (w lmdbWorker) delete(key []byte) error {
	return w.write(func(tx lmdbTx) error {
		code := C.bench_del(tx.tx, tx.dbi, unsafe.Pointer(&key[0]), C.size_t(len(key)))
		if code == C.MDB_NOTFOUND {
			return nil
		}
		return lmdbErr(code)
	})
}

func (w lmdbWorker) batch(n int, row func(i int) (key, value []byte)) error {
	return w.write(func(tx lmdbTx) error {
		for i := range n {
			if err := tx.set(row(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w lmdbWorker) update(fn func(tx transaction) error) error {
	return w.write(func(tx lmdbTx) error { return fn(tx) })
}

func (w lmdbWorker) snapshot() (snapshot, error) { return w.read() }

func (t lmdbTx) close() error {
	C.mdb_txn_abort(t.tx)
	return nil
}

func (t lmdbTx) get(key []byte, use func(value []byte) error) (bool, error) {
	var value unsafe.Pointer
	var size C.size_t
	code := C.bench_get(t.tx, t.dbi, unsafe.Pointer(&key[0]), C.size_t(len(key)), &value, &size)
	switch code {
	case 0:
		return true, use(unsafe.Slice((*byte)(value), size))
	case C.MDB_NOTFOUND:
		return false, nil
	}
	return false, lmdbErr(code)
}

func (t lmdbTx) set(key, value []byte) error {
	return lmdbErr(C.bench_put(t.tx, t.dbi, unsafe.Pointer(&key[0]), C.size_t(len(key)), unsafe.Pointer(&value[0]), C.size_t(len(value))))
}

func (t lmdbTx) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	var c *C.MDB_cursor
	if code := C.mdb_cursor_open(t.tx, t.dbi, &c); code != 0 {
		return lmdbErr(code)
	}
	defer C.mdb_cursor_close(c)
	var key, value unsafe.Pointer
	var keyBytes, valueBytes C.size_t
	move := func(op C.MDB_cursor_op) C.int {
		var seek unsafe.Pointer
		if op == C.MDB_SET_RANGE {
			seek = unsafe.Pointer(&from[0])
		}
		return C.bench_cursor(c, op, seek, C.size_t(len(from)), &key, &keyBytes, &value, &valueBytes)
	}
	next := C.MDB_cursor_op(C.MDB_NEXT)
	var code C.int
	switch {
	case !backwards && from == nil:
		code = move(C.MDB_FIRST)
	case !backwards:
		code = move(C.MDB_SET_RANGE)
	case from == nil:
		next = C.MDB_PREV
		code = move(C.MDB_LAST)
	default:
		next = C.MDB_PREV
		if code = move(C.MDB_SET_RANGE); code == 0 {
			code = move(C.MDB_PREV)
		} else {
			code = move(C.MDB_LAST)
		}
	}
	for ; n > 0 && code == 0; n-- {
		if err := use(unsafe.Slice((*byte)(key), keyBytes), unsafe.Slice((*byte)(value), valueBytes)); err != nil {
			return err
		}
		code = move(next)
	}
	if code == C.MDB_NOTFOUND {
		return nil
	}
	return lmdbErr(code)
}
