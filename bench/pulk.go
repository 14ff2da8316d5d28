package main

import (
	"errors"

	"github.com/pulkdb/db"
)

// pulk is used with its defaults, but for the size of the cache and durability.
type pulkStore struct{ db *db.DB }

func openPulk(s settings) (engine, error) {
	o := &db.Options{CacheSize: s.cache, Durability: db.DurabilityNone}
	if s.sync {
		o.Durability = db.DurabilitySync
	}
	d, err := db.Open(s.dir, o)
	if err != nil {
		return nil, err
	}
	return pulkStore{d}, nil
}

func (p pulkStore) close() error   { return p.db.Close() }
func (p pulkStore) worker() worker { return &pulkWorker{pulkView{from: p.db}, p.db} }

type pulkReader interface {
	GetTo(dst, key []byte) ([]byte, error)
	Scan(lo, hi []byte) *db.Iterator
}

// A pulkView reads with GetTo into a buffer that it keeps.
type pulkView struct {
	from pulkReader
	got  []byte
}

func (v *pulkView) get(key []byte, use func(value []byte) error) (bool, error) {
	var err error
	v.got, err = v.from.GetTo(v.got[:0], key)
	if err != nil {
		if errors.Is(err, db.ErrNotFound) {
			err = nil
		}
		return false, err
	}
	return true, use(v.got)
}

func (v *pulkView) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	var it *db.Iterator
	move := (*db.Iterator).Next
	if backwards {
		it, move = v.from.Scan(nil, from), (*db.Iterator).Prev
	} else {
		it = v.from.Scan(from, nil)
	}
	defer it.Close()
	for ; n > 0 && move(it); n-- {
		if err := use(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Err()
}

type pulkWorker struct {
	pulkView
	db *db.DB
}

func (w *pulkWorker) set(key, value []byte) error { return w.db.Set(key, value) }
func (w *pulkWorker) delete(key []byte) error     { return w.db.Delete(key) }

func (w *pulkWorker) batch(n int, row func(i int) (key, value []byte)) error {
	b := w.db.NewBatch()
	for i := range n {
		if err := b.Set(row(i)); err != nil {
			return err
		}
	}
	return b.Commit()
}

func (w *pulkWorker) update(fn func(tx transaction) error) error {
	return w.db.Update(func(tx *db.Tx) error {
		return fn(&pulkTx{pulkView{from: tx, got: w.got}, tx})
	})
}

type pulkTx struct {
	pulkView
	tx *db.Tx
}

func (t *pulkTx) set(key, value []byte) error { return t.tx.Set(key, value) }

func (w *pulkWorker) snapshot() (snapshot, error) {
	s := w.db.Snapshot()
	return &pulkSnapshot{pulkView{from: s}, s}, nil
}

type pulkSnapshot struct {
	pulkView
	s *db.Snapshot
}

func (s *pulkSnapshot) close() error { return s.s.Close() }
