package db

import (
	"bytes"
	"fmt"
	"iter"

	"github.com/google/btree"

	"github.com/pulkdb/db/tree"
)

const (
	batchDegree        = 32      // fan-out of a batch's ordered set
	batchBlockBytesMin = 4 << 10 // memory that is taken for copies at once,
	batchBlockBytesMax = 1 << 20 // unless one key or value needs more
)

// A Batch is a list of writes that take effect at one moment: readers see all
// of them or none, and so does whoever opens the store after a crash. The
// writes apply in the order of the calls, so the last one to a key counts.
//
// A Batch is held in memory and belongs to one goroutine at a time. Commit does
// not consume it: it can be committed again, until Reset empties it.
type Batch struct {
	db     *DB
	ops    []Op                      // in call order
	newest *btree.BTreeG[batchWrite] // by key, the last write to it
	size   int                       // bytes of the keys and values in ops
	block  []byte                    // where copies of arguments go
}

// A batchWrite is one key of a batch and the index in ops of its last write.
type batchWrite struct {
	key   []byte
	index int
}

// An OpKind says what an Op does. The numbers are fixed; 3 is kept for range
// deletes and 4 for merge operands.
type OpKind uint8

const (
	OpSet    OpKind = 1 // Key gets Value
	OpDelete OpKind = 2 // Key goes
)

// String gives the name of k, as "set".
func (k OpKind) String() string {
	switch k {
	case OpSet:
		return "set"
	case OpDelete:
		return "delete"
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// An Op is one write of a Batch.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte // of an OpSet
}

func newBatch(d *DB) *Batch {
	less := func(a, b batchWrite) bool { return bytes.Compare(a.key, b.key) < 0 }
	return &Batch{db: d, newest: btree.NewG(batchDegree, less)}
}

// Set adds a write of value under key.
func (b *Batch) Set(key, value []byte) error {
	if err := b.db.checkWrite(key, value); err != nil {
		return err
	}
	b.add(Op{Kind: OpSet, Key: b.copy(key), Value: b.copy(value)})
	return nil
}

// Delete adds the removal of key.
func (b *Batch) Delete(key []byte) error {
	if err := b.db.checkWrite(key, nil); err != nil {
		return err
	}
	b.add(Op{Kind: OpDelete, Key: b.copy(key)})
	return nil
}

// Len returns the number of writes that were added.
func (b *Batch) Len() int { return len(b.ops) }

// Size returns the bytes of all keys and values that were added.
func (b *Batch) Size() int { return b.size }

// Reset empties the batch. Its memory is used again, so an Op that All gave out
// before must not be used any more.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops = b.ops[:0]
	b.newest.Clear(true)
	b.size = 0
	b.block = b.block[:0]
	if cap(b.block) > batchBlockBytesMax {
		b.block = nil
	}
}

// All returns the writes in the order of the calls. What an Op holds must not
// be changed and is valid until Reset.
func (b *Batch) All() iter.Seq[Op] {
	return func(yield func(Op) bool) {
		for _, op := range b.ops {
			if !yield(op) {
				return
			}
		}
	}
}

// Commit applies the batch. When it returns nil, the batch is as durable as a
// single Set would be. An error never leaves a part of it: after ErrFailed
// readers may see all of it, and a later Open finds all of it or nothing; after
// any other error nothing of it was written.
func (b *Batch) Commit() error {
	if err := b.db.checkWrite(nil, nil); err != nil {
		return err
	}
	if len(b.ops) == 0 {
		return nil
	}
	start := b.db.recorder.start(opBatch)
	err := b.db.tree.Apply(b.sorted())
	b.db.recorder.stop(opBatch, start)
	return b.db.translate(err)
}

// sorted returns the last write to each key, in key order.
func (b *Batch) sorted() []tree.Op {
	ops := make([]tree.Op, 0, b.newest.Len())
	b.newest.Ascend(func(w batchWrite) bool {
		op := b.ops[w.index]
		ops = append(ops, tree.Op{Key: op.Key, Value: op.Value, Delete: op.Kind == OpDelete})
		return true
	})
	return ops
}

// add takes over op.
func (b *Batch) add(op Op) {
	b.newest.ReplaceOrInsert(batchWrite{key: op.Key, index: len(b.ops)})
	b.ops = append(b.ops, op)
	b.size += len(op.Key) + len(op.Value)
}

// copy returns a copy of p in the batch's own memory. A block that is full
// stays where it is, since ops point into it; only the newest is kept by Reset.
func (b *Batch) copy(p []byte) []byte {
	if len(p) > cap(b.block)-len(b.block) {
		size := min(max(2*cap(b.block), batchBlockBytesMin), batchBlockBytesMax)
		b.block = make([]byte, 0, max(len(p), size))
	}
	start := len(b.block)
	b.block = append(b.block, p...)
	return b.block[start:len(b.block):len(b.block)]
}
