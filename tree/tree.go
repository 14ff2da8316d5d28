package tree

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/pagecache"
)

// Durability says when a write returns.
type Durability uint8

const (
	// Sync: when it is durable. Writers that wait share a sync.
	Sync Durability = iota
	// Periodic: at once; pagecache.Options.FlushInterval says when it is durable.
	Periodic
	// None: at once; durable by Sync and Close.
	None
)

// Options say how to open a Tree. Zero values mean the defaults.
type Options struct {
	// Cache is the page cache's; Materializer is set by Open, and MergeDeltas is 8
	// by default.
	Cache pagecache.Options

	// Durability says when a write returns. Default Sync.
	Durability Durability

	// MaxNodeBytes is the size above which a node is split. Default 8 KiB, at
	// least 256. A node is larger for a while, or if it has one key only.
	// Values longer than a quarter of it live in pages of their own.
	MaxNodeBytes int

	// ChunkBytes is the size of those pages, at most 1 MiB. Default 128 KiB.
	ChunkBytes int

	// Merger folds the operands that Merge adds. Default none: Merge and reads of
	// keys that have operands fail with ErrNoMerger.
	Merger Merger
}

const (
	maxNodeBytesDefault = 8 << 10
	maxNodeBytesMin     = 256
	chunkBytesDefault   = 128 << 10
	chunkBytesMin       = 64
	chunkBytesMax       = 1 << 20

	// mergeDeltasDefault is lower than pagecache's own: a reader walks half of them
	// on average, each a cache miss, and folding a leaf costs little (writes did
	// not get slower from 24 down to 8).
	mergeDeltasDefault = 8
	innerDeltas        = 3 // an inner node is looked after at this many
)

func (o Options) withDefaults() Options {
	if o.MaxNodeBytes == 0 {
		o.MaxNodeBytes = maxNodeBytesDefault
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = chunkBytesDefault
	}
	if o.Cache.MergeDeltas == 0 {
		o.Cache.MergeDeltas = mergeDeltasDefault
	}
	o.Cache.Materializer = materializer{fold: folder{merger: o.Merger, bytesMax: o.inlineMax()}, kept: newKeptLeaves(), thin: newThinNodes(o.MaxNodeBytes)}
	return o
}

// inlineMax is the length of the longest value that lives in a leaf.
func (o Options) inlineMax() int { return o.MaxNodeBytes / 4 }

func (o Options) validate() error {
	switch {
	case o.MaxNodeBytes < maxNodeBytesMin:
		return fmt.Errorf("tree: Options.MaxNodeBytes is %d, less than %d", o.MaxNodeBytes, maxNodeBytesMin)
	case o.ChunkBytes < chunkBytesMin || o.ChunkBytes > chunkBytesMax:
		return fmt.Errorf("tree: Options.ChunkBytes is %d, want %d to %d", o.ChunkBytes, chunkBytesMin, chunkBytesMax)
	case o.Durability > None:
		return fmt.Errorf("tree: Options.Durability is %d", o.Durability)
	}
	return nil
}

// A Tree is a B-link tree of keys and values. Its methods may be called by many
// goroutines at once. What they are given may be reused when they return, and
// what they return is the caller's.
type Tree struct {
	// Immutable after Open.
	options    Options
	cache      *pagecache.Cache
	inlineMax  int // longer values live in pages of their own
	chunkBytes int // payload of such a page, but of streamed values
	streamMin  int // longer values are streamed
	aroundMin  int // the pages of longer values stay out of the cache

	// Atomic.
	root   atomic.Pointer[root] // nil: the store is empty and read-only
	closed atomic.Bool
	tail   atomic.Uint64 // a hint: the PID of the last leaf, where rows in order go

	scratch  sync.Pool // of *[]byte
	parts    sync.Pool // of *[]byte: chunk pages of streamed values
	drafts   drafts
	ahead    ahead
	shrinker shrinker
	joiner   joiner
	thin     *thinNodes
	metrics  counters
}

// A root says which page is the tree's root. Generations grow.
type root struct {
	pid        PID
	generation uint64
}

// Open opens the store, creating it if there is none. Errors are those of
// pagecache.Open.
func Open(o Options) (*Tree, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	cache, err := pagecache.Open(o.Cache)
	if err != nil {
		return nil, err
	}
	own := o.Cache.Materializer.(materializer)
	t := &Tree{options: o, cache: cache, inlineMax: o.inlineMax(), chunkBytes: o.ChunkBytes - chunkHeaderBytes, thin: own.thin}
	t.scratch.New = func() any { return new([]byte) }
	t.parts.New = func() any { return new([]byte) }
	t.streamMin = streamChunks * t.chunkBytes
	t.aroundMin = max(t.chunkBytes, int(min(o.Cache.CacheSize/aroundShare, MaxValueBytes)))
	if o.Cache.CacheSize == 0 || o.Cache.InMemory {
		t.aroundMin = t.streamMin
	}
	if r, ok := cache.Recovered(0); ok {
		t.root.Store(&root{r.PID, r.Generation})
	} else if !o.Cache.ReadOnly {
		if err := t.create(); err != nil {
			_ = cache.Close()
			return nil, err
		}
	}
	t.abandonDrafts()
	t.shrinker.start(t, own.kept)
	own.kept.shrinker.Store(&t.shrinker)
	t.joiner.start(t)
	cache.TendLarge(o.MaxNodeBytes, t.loadAndTend)
	return t, nil
}

// create makes the root of an empty tree, durably.
func (t *Tree) create() error {
	u := t.cache.Begin()
	pid, err := u.Allocate(appendEmpty(nil, meta{kind: kindLeaf, root: true, last: true, generation: 1}))
	if err != nil {
		u.Discard()
		return err
	}
	r, err := u.Commit()
	if err != nil {
		return err
	}
	t.root.Store(&root{pid, 1})
	return t.cache.WaitDurable(r.LSN)
}

// raiseRoot makes pid the root unless a newer one is known (T5).
func (t *Tree) raiseRoot(pid PID, generation uint64) {
	next := &root{pid, generation}
	for {
		now := t.root.Load()
		if now.generation >= generation || t.root.CompareAndSwap(now, next) {
			return
		}
	}
}

// Close makes everything durable and closes the store. It does not wait for
// iterators: their next move fails with ErrClosed. A second Close returns
// ErrClosed.
func (t *Tree) Close() error {
	if t.closed.Swap(true) {
		return ErrClosed
	}
	t.joiner.close()
	t.shrinker.close()
	t.ahead.close()
	return t.cache.Close()
}

// Sync makes durable all that was acknowledged.
func (t *Tree) Sync() error {
	if t.closed.Load() {
		return ErrClosed
	}
	return t.cache.Sync()
}

// wait returns when what ends at lsn is as durable as the Options ask.
func (t *Tree) wait(lsn pagecache.LSN) error {
	if t.options.Durability != Sync {
		return nil
	}
	return t.cache.WaitDurable(lsn)
}

// waitForRead acknowledges an operation that wrote nothing: what it read must be
// as durable as what it would have written.
func (t *Tree) waitForRead() error {
	if t.options.Durability != Sync {
		return nil
	}
	return t.cache.WaitDurable(t.cache.LogTail())
}

// getScratch returns an empty buffer; give it back with putScratch.
func (t *Tree) getScratch() *[]byte { return t.scratch.Get().(*[]byte) }

const scratchBytesMax = 1 << 20

func (t *Tree) putScratch(b *[]byte) {
	if cap(*b) <= scratchBytesMax {
		*b = (*b)[:0]
		t.scratch.Put(b)
	}
}
