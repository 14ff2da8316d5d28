package main

import (
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// bbolt is used with the options that its README and etcd advise: the freelist as
// a map and not synced, and a mapping large enough not to be made anew. Without
// durability NoSync. A set is a transaction of its own; if writes are to be
// gathered, DB.Batch.
type boltStore struct {
	db       *bolt.DB
	together bool
}

var bucket = []byte("rows")

func openBolt(s settings) (engine, error) {
	o := *bolt.DefaultOptions
	o.FreelistType = bolt.FreelistMapType
	o.NoFreelistSync = true
	o.InitialMmapSize = 8 << 30
	o.NoSync = !s.sync
	d, err := bolt.Open(filepath.Join(s.dir, "bolt"), 0o600, &o)
	if err != nil {
		return nil, err
	}
	err = d.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return &boltStore{d, s.together}, nil
}

func (b *boltStore) close() error {
	if err := b.db.Sync(); err != nil {
		return err
	}
	return b.db.Close()
}

func (b *boltStore) worker() worker { return &boltWorker{b} }

type boltWorker struct{ *boltStore }

func (w *boltWorker) get(key []byte, use func(value []byte) error) (found bool, err error) {
	err = w.db.View(func(tx *bolt.Tx) error {
		found, err = boltGet(tx, key, use)
		return err
	})
	return found, err
}

func (w *boltWorker) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return w.db.View(func(tx *bolt.Tx) error { return boltScan(tx, from, backwards, n, use) })
}

func (w *boltWorker) set(key, value []byte) error {
	put := func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, value) }
	if w.together {
		return w.db.Batch(put)
	}
	return w.db.Update(put)
}

func (w *boltWorker) delete(key []byte) error {
	return w.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete(key) })
}

// batch copies the rows: bbolt keeps values until the transaction is committed.
func (w *boltWorker) batch(n int, row func(i int) (key, value []byte)) error {
	return w.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		for i := range n {
			key, value := row(i)
			if err := b.Put(key, append([]byte(nil), value...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *boltWorker) update(fn func(tx transaction) error) error {
	return w.db.Update(func(tx *bolt.Tx) error { return fn(boltTx{tx}) })
}

type boltTx struct{ tx *bolt.Tx }

func (t boltTx) get(key []byte, use func(value []byte) error) (bool, error) {
	return boltGet(t.tx, key, use)
}

func (t boltTx) set(key, value []byte) error {
	return t.tx.Bucket(bucket).Put(key, append([]byte(nil), value...))
}

func (w *boltWorker) snapshot() (snapshot, error) {
	tx, err := w.db.Begin(false)
	return boltSnapshot{tx}, err
}

// A boltSnapshot is a long read transaction.
type boltSnapshot struct{ tx *bolt.Tx }

func (s boltSnapshot) get(key []byte, use func(value []byte) error) (bool, error) {
	return boltGet(s.tx, key, use)
}

func (s boltSnapshot) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return boltScan(s.tx, from, backwards, n, use)
}

func (s boltSnapshot) close() error { return s.tx.Rollback() }

func boltGet(tx *bolt.Tx, key []byte, use func(value []byte) error) (bool, error) {
	value := tx.Bucket(bucket).Get(key)
	if value == nil {
		return false, nil
	}
	return true, use(value)
}

func boltScan(tx *bolt.Tx, from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	c := tx.Bucket(bucket).Cursor()
	var key, value []byte
	move := c.Next
	switch {
	case !backwards && from == nil:
		key, value = c.First()
	case !backwards:
		key, value = c.Seek(from)
	case from == nil:
		key, value = c.Last()
		move = c.Prev
	default:
		if key, _ = c.Seek(from); key == nil {
			key, value = c.Last()
		} else {
			key, value = c.Prev()
		}
		move = c.Prev
	}
	for ; n > 0 && key != nil; n-- {
		if err := use(key, value); err != nil {
			return err
		}
		key, value = move()
	}
	return nil
}
