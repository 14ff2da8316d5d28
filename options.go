package db

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pulkdb/db/pagecache"
	"github.com/pulkdb/db/tree"
)

const (
	defaultCacheSize    = 256 << 20
	cacheSizeMin        = 1 << 20
	cacheSizeMax        = 1 << 50
	spaceTargetMax      = 100_000
	defaultSyncInterval = 500 * time.Millisecond
)

// Options say how a store is opened. The zero value works, and each zero field
// stands for its default.
//
// Options may change from one Open to the next; none of them has to be what it
// was when the store was made. What a reader of the files must know, as the
// compression of each page, the files state themselves, with a format version,
// checksums and the identity of the store, and Open checks it.
type Options struct {
	// CacheSize is the memory in bytes for all that grows with the data: pages,
	// their changes, the table of pages, versions that snapshots keep, and
	// buffers. MemoryMetrics has the parts. 0 means 256 MiB, less than 1 MiB is
	// raised to that, and 1 PiB or more means no limit. It is taken as data come,
	// not at once, and kept within a tenth but for short moments. Data beyond it
	// are read from disk when they are needed. Buffers have a least size of a few
	// MiB: what they take beyond a quarter of CacheSize comes on top. The process
	// takes up to a quarter more than that from the system, and what the rest of it
	// needs: page memory is outside the Go heap, so that the collector's headroom is
	// not for it, but memory of one size cannot at once serve another.
	CacheSize int64

	// SpaceTarget is what the store may take on disk, in percent of the bytes that
	// its data need there: pages, without what is overwritten or deleted. 0 means
	// 158, less than 110 is refused, and more than 100,000 counts as that. Above it writers are slowed, smoothly, so
	// that old space comes back in time. A larger target means fewer bytes written
	// for each byte of data. Small stores take more: files of a 96th of CacheSize, 1
	// to 64 MiB, of which a dozen beside the data are always allowed.
	SpaceTarget int

	// Durability says when a write is acknowledged. The zero value is
	// DurabilitySync.
	Durability Durability

	// SyncInterval is the time between two syncs under DurabilityPeriodic,
	// and so about the most that a crash can take. 0 means 500 ms. The other
	// modes ignore it.
	SyncInterval time.Duration

	// Compression of pages on disk. The zero value is CompressionNone. A change
	// holds for what is written from then on; all kinds can be read at any time,
	// and a page that does not get smaller by an eighth is stored as it is. Small
	// writes, which are most of the log, are not compressed, only the pages that
	// they are merged into. It takes up to 5 MiB of memory for each of up to four
	// processors. (Snapshots of the page table are always compressed.)
	Compression Compression

	// ReadOnly opens an existing store without changing any of its files.
	// Writes fail with ErrReadOnly. Several processes may read one store, but
	// none while another writes to it: Open fails with ErrLocked then.
	ReadOnly bool

	// InMemory keeps everything in memory and nothing on disk: the directory
	// given to Open is not touched, and Close ends the data. CacheSize does
	// not limit the data then.
	InMemory bool

	// Merger folds the operands that Merge adds to keys. nil means that there
	// is none: Merge fails with ErrNoMerger, and so do reads of keys on which
	// an earlier process left operands. It is to be the same, or one that
	// understands all older operands, each time the store is opened.
	Merger Merger

	// Logger receives what the store has to report, such as a damaged file
	// that it could do without. nil means slog.Default, warnings and errors
	// only.
	Logger *slog.Logger

	// tune, if not nil, may change what package tree is given. Tests make
	// sizes small with it, so that every path runs often.
	tune func(*tree.Options)
}

// A Durability says when a write is acknowledged.
type Durability uint8

const (
	// DurabilitySync acknowledges a write when it is on disk. Writers that
	// wait at the same time share one sync.
	DurabilitySync Durability = 0

	// DurabilityPeriodic acknowledges a write when it is in memory, and syncs
	// every SyncInterval.
	DurabilityPeriodic Durability = 1

	// DurabilityNone acknowledges a write when it is in memory. Only DB.Sync
	// and DB.Close make sure that it is on disk.
	DurabilityNone Durability = 2
)

// String gives the name of d, as "sync".
func (d Durability) String() string {
	switch d {
	case DurabilitySync:
		return "sync"
	case DurabilityPeriodic:
		return "periodic"
	case DurabilityNone:
		return "none"
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}

// A Compression names how pages are compressed on disk.
type Compression uint8

const (
	// CompressionNone stores pages as they are: the least work per page read.
	CompressionNone Compression = 0

	// CompressionZstd compresses pages with Zstandard at its default level: less
	// space and fewer bytes written, for more work per page read and written.
	CompressionZstd Compression = 1

	// CompressionZstdFast is CompressionZstd with less work per page written, and
	// a little less gained.
	CompressionZstdFast Compression = 2

	// CompressionZstdBetter is CompressionZstd with more work per page written,
	// and a little more gained.
	CompressionZstdBetter Compression = 3
)

// String gives the name of c, as "zstd".
func (c Compression) String() string {
	switch c {
	case CompressionNone:
		return "none"
	case CompressionZstd:
		return "zstd"
	case CompressionZstdFast:
		return "zstd-fast"
	case CompressionZstdBetter:
		return "zstd-better"
	}
	return fmt.Sprintf("Compression(%d)", uint8(c))
}

// pages returns what c means to package pagecache.
func (c Compression) pages() pagecache.Compression {
	switch c {
	case CompressionZstd:
		return pagecache.Zstd
	case CompressionZstdFast:
		return pagecache.ZstdFast
	case CompressionZstdBetter:
		return pagecache.ZstdBetter
	}
	return pagecache.NotCompressed
}

// withDefaults returns a copy of o, which may be nil, with a value in every
// field.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.CacheSize == 0 {
		c.CacheSize = defaultCacheSize
	}
	if c.SyncInterval == 0 {
		c.SyncInterval = defaultSyncInterval
	}
	if c.Logger == nil {
		c.Logger = slog.New(warnings{slog.Default().Handler()})
	}
	return c
}

// validate names the field that makes no sense, if there is one.
func (o *Options) validate() error {
	invalid := func(field string, value any) error {
		return fmt.Errorf("%w: %s: %v", ErrInvalidOptions, field, value)
	}
	switch {
	case o.CacheSize < 0:
		return invalid("CacheSize", o.CacheSize)
	case o.SpaceTarget != 0 && o.SpaceTarget < pagecache.SpaceTargetMin:
		return invalid("SpaceTarget", o.SpaceTarget)
	case o.Durability > DurabilityNone:
		return invalid("Durability", o.Durability)
	case o.SyncInterval < 0:
		return invalid("SyncInterval", o.SyncInterval)
	case o.Compression > CompressionZstdBetter:
		return invalid("Compression", o.Compression)
	case o.ReadOnly && o.InMemory:
		return invalid("ReadOnly", "true, and InMemory too: such a store stays empty")
	}
	return nil
}

// tree returns what o means to package tree.
func (o *Options) tree(dir string) tree.Options {
	t := tree.Options{Cache: pagecache.Options{
		Dir:         dir,
		CacheSize:   min(max(o.CacheSize, cacheSizeMin), cacheSizeMax),
		SpaceTarget: min(o.SpaceTarget, spaceTargetMax),
		Compress:    o.Compression.pages(),
		InMemory:    o.InMemory,
		ReadOnly:    o.ReadOnly,
		Logger:      o.Logger,
	}}
	if o.Merger != nil {
		t.Merger = tree.Merger(o.Merger)
	}
	switch o.Durability {
	case DurabilitySync:
		t.Durability = tree.Sync
		t.Cache.Preallocate = true // a sync of every write gains by it, others pay
	case DurabilityPeriodic:
		t.Durability = tree.Periodic
		t.Cache.FlushInterval = o.SyncInterval
	case DurabilityNone:
		t.Durability = tree.None
	}
	if o.tune != nil {
		o.tune(&t)
	}
	return t
}

// warnings passes on what a handler is given at slog.LevelWarn and above.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}

func (w warnings) WithGroup(name string) slog.Handler {
	return warnings{w.Handler.WithGroup(name)}
}
