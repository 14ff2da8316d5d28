package main

import (
	"errors"
	"expvar"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// badger is used with its DefaultOptions, but for: no compression, as everywhere
// here, and so no block cache, as its documentation advises then; an index cache
// of the size given; and memtables of a quarter of it where that is less than the
// 64 MiB of the default. A write is a transaction of its own, values are read in
// callbacks. Its metrics are off where they are not needed.
type badgerStore struct{ db *badger.DB }

func openBadger(s settings) (engine, error) {
	o := badger.DefaultOptions(s.dir).
		WithLoggingLevel(badger.ERROR).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(s.cache).
		WithMemTableSize(min(max(s.cache/4, 8<<20), 64<<20)).
		WithMetricsEnabled(s.counted).
		WithSyncWrites(s.sync)
	d, err := badger.Open(o)
	if err != nil {
		return nil, err
	}
	return badgerStore{d}, nil
}

func (b badgerStore) close() error   { return b.db.Close() }
func (b badgerStore) worker() worker { return badgerWorker{b} }

// mappedBytes sums up what badger counts: each write goes to the log of a memtable
// and to a table of level 0, both of which its count for level 0 stands for, and to
// others by compaction. badger writes all through mappings.
func (b badgerStore) mappedBytes() (sum int64) {
	if n, ok := expvar.Get("badger_write_bytes_l0").(*expvar.Int); ok {
		sum += 2 * n.Value()
	}
	if n, ok := expvar.Get("badger_write_bytes_vlog").(*expvar.Int); ok {
		sum += n.Value()
	}
	if m, ok := expvar.Get("badger_write_bytes_compaction").(*expvar.Map); ok {
		m.Do(func(level expvar.KeyValue) {
			if n, ok := level.Value.(*expvar.Int); ok {
				sum += n.Value()
			}
		})
	}
	return sum
}

type badgerWorker struct{ badgerStore }

func (w badgerWorker) get(key []byte, use func(value []byte) error) (found bool, err error) {
	err = w.db.View(func(tx *badger.Txn) error {
		found, err = badgerGet(tx, key, use)
		return err
	})
	return found, err
}

func (w badgerWorker) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return w.db.View(func(tx *badger.Txn) error { return badgerScan(tx, from, backwards, n, use) })
}

func (w badgerWorker) set(key, value []byte) error {
	return w.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) })
}

func (w badgerWorker) delete(key []byte) error {
	return w.db.Update(func(tx *badger.Txn) error { return tx.Delete(key) })
}

// batch is one transaction, which keeps what it is given until it is committed.
func (w badgerWorker) batch(n int, row func(i int) (key, value []byte)) error {
	return w.db.Update(func(tx *badger.Txn) error {
		for i := range n {
			key, value := row(i)
			if err := tx.Set(append([]byte(nil), key...), append([]byte(nil), value...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w badgerWorker) update(fn func(tx transaction) error) error {
	for {
		err := w.db.Update(func(tx *badger.Txn) error { return fn(badgerTx{tx}) })
		if !errors.Is(err, badger.ErrConflict) {
			return err
		}
	}
}

type badgerTx struct{ tx *badger.Txn }

func (t badgerTx) get(key []byte, use func(value []byte) error) (bool, error) {
	return badgerGet(t.tx, append([]byte(nil), key...), use) // it notes the key
}

func (t badgerTx) set(key, value []byte) error {
	return t.tx.Set(append([]byte(nil), key...), append([]byte(nil), value...))
}

func (w badgerWorker) snapshot() (snapshot, error) {
	return badgerSnapshot{w.db.NewTransaction(false)}, nil
}

// A badgerSnapshot is a long read transaction.
type badgerSnapshot struct{ tx *badger.Txn }

func (s badgerSnapshot) get(key []byte, use func(value []byte) error) (bool, error) {
	return badgerGet(s.tx, key, use)
}

func (s badgerSnapshot) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return badgerScan(s.tx, from, backwards, n, use)
}

func (s badgerSnapshot) close() error {
	s.tx.Discard()
	return nil
}

func badgerGet(tx *badger.Txn, key []byte, use func(value []byte) error) (bool, error) {
	item, err := tx.Get(key)
	if err != nil {
		if errors.Is(err, badger.ErrKeyNotFound) {
			err = nil
		}
		return false, err
	}
	return true, item.Value(use)
}

func badgerScan(tx *badger.Txn, from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	o := badger.DefaultIteratorOptions
	o.Reverse = backwards
	it := tx.NewIterator(o)
	defer it.Close()
	if from == nil {
		it.Rewind()
	} else {
		it.Seek(from)
	}
	// Backwards, Seek stops at the key itself, which is one too far.
	if backwards && from != nil && it.Valid() && string(it.Item().Key()) == string(from) {
		it.Next()
	}
	for ; n > 0 && it.Valid(); n-- {
		item := it.Item()
		if err := item.Value(func(value []byte) error { return use(item.Key(), value) }); err != nil {
			return err
		}
		it.Next()
	}
	return nil
}
