package pagecache

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/log"
)

// A Cache holds the pages of one store. All methods may be called by many
// goroutines at once, but for Close beside itself.
type Cache struct {
	// Immutable after Open.
	options Options
	keeper  Keeper // nil: no page is kept
	arena   *arena.Arena
	epochs  *epoch.Domain
	table   *table
	written pidSet // the slots that changed since the newest page-table snapshot
	log     *log.Log
	codec   codec
	stop    chan struct{} // closed by Close
	opened  struct {      // how Open found the store
		lsn   LSN    // the log was written from here on since
		clock uint64 // the first moment since
	}

	// Atomic.
	clock  atomic.Uint64 // the next moment; ticks when a read snapshot opens
	closed atomic.Bool

	moments    moments
	pids       pids
	loads      loads
	borrowed   borrowed
	groups     groups
	evict      evictor
	probation  probation
	checkpoint checkpointer
	clean      cleaner
	gather     gatherer
	space      spaceBook
	recovery   recoveryState
	scratch    scratchPool
	metrics    counters

	background sync.WaitGroup // the goroutines that Open started
	closing    sync.Mutex     // one Close at a time
}

// Open opens the store in Options.Dir, creating it if there is none, and
// recovers what the last opener left. Errors: log.ErrLocked, log.ErrNotStore,
// log.ErrVersion, a *log.CorruptError, the file system's.
func Open(o Options) (*Cache, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	k, err := newCodec(o.Compress)
	if err != nil {
		return nil, err
	}
	c := &Cache{options: o, codec: k, stop: make(chan struct{})}
	c.keeper, _ = o.Materializer.(Keeper)
	c.arena = arena.New(arena.Options{})
	c.epochs = epoch.New(c.reclaim)
	c.table = newTable(c.arena)
	c.loads.pending = make(map[PID]*load)
	c.borrowed.pages = make(map[PID]borrowedBase)
	c.recovery.trees = make(map[uint64]Recovery)
	c.clean.refused = make(map[LSN]refusal)
	c.clean.wake = make(chan struct{}, 1)
	c.evict.wake = make(chan struct{}, 1)
	c.gather.wake = make(chan struct{}, 1)
	c.pids.next = 1
	c.choosePlacesMax()
	c.clock.Store(firstStamp)
	if err := c.openLog(); err != nil {
		c.arena.Close()
		return nil, err
	}
	if !o.InMemory {
		c.background.Add(1)
		go c.runEvictor()
	}
	if !o.InMemory && !o.ReadOnly {
		c.background.Add(3)
		go c.runGatherer()
		go c.runCleaner()
		go c.runCheckpointer()
	}
	return c, nil
}

func (c *Cache) openLog() (err error) {
	o := c.options
	c.log, err = log.Open(log.Options{
		Dir: o.Dir, FS: o.FS, SegmentBytes: o.SegmentBytes, BufferBytes: o.BufferBytes,
		FlushInterval: o.FlushInterval, Preallocate: o.Preallocate,
		ReadOnly: o.ReadOnly, Discard: o.InMemory, Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.log.Close())
		}
	}()
	if !o.InMemory {
		if err := c.recover(); err != nil {
			return err
		}
	}
	c.opened.clock = c.clock.Load()
	c.opened.lsn = ^LSN(0)
	if o.ReadOnly {
		return nil
	}
	if err := c.log.Start(); err != nil {
		return err
	}
	c.opened.lsn = c.log.SegmentOf(c.log.Tail(log.Fresh))
	return nil
}

// Close makes everything durable, writes a page-table snapshot and ends the
// cache's goroutines. Operations under way finish; later ones, and those of open
// moments, fail with ErrClosed. It waits for no read snapshot. A second Close
// returns ErrClosed.
func (c *Cache) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	close(c.stop)
	c.background.Wait()
	c.closed.Store(true)
	// From here no View succeeds. Those under way hold guards.
	c.waitForGuards()
	var err error
	if !c.options.InMemory && !c.options.ReadOnly && c.log.Err() == nil {
		if c.log.Tail(log.Fresh) != LSN(c.checkpoint.last.Load()) {
			err = c.writeCheckpoint()
		}
	}
	err = errors.Join(err, c.log.Close())
	c.epochs.Close()
	c.arena.Close()
	return err
}

// WaitDurable returns when all that was written up to lsn is durable. Who waits
// shares the sync of the others.
func (c *Cache) WaitDurable(lsn LSN) error { return c.log.WaitDurable(log.Fresh, lsn) }

// LogTail is the end of what was written so far: when it is durable, everything
// that a read can have seen by now is.
func (c *Cache) LogTail() LSN { return c.log.Tail(log.Fresh) }

// Sync makes all that was written so far durable.
func (c *Cache) Sync() error { return c.log.Sync() }

// Throttle is called before an update, with no guard held. It waits while the
// log has more to write than it should or the cleaner is behind, helps the
// evictor when memory is over its budget, and returns the log's failure if there
// is one.
func (c *Cache) Throttle() error {
	if err := c.ThrottleUnpaced(); err != nil || c.options.InMemory {
		return err
	}
	c.keepPace()
	return nil
}

// ThrottleUnpaced is Throttle for updates that give space back, such as those of an
// owner who tidies up: it does not wait for the cleaner.
func (c *Cache) ThrottleUnpaced() error {
	if c.options.ReadOnly {
		return ErrReadOnly
	}
	if err := c.log.Throttle(); err != nil || c.options.InMemory {
		return err
	}
	c.noteUse()
	c.makeRoom()
	c.noteWriting()
	return nil
}

func (c *Cache) keep(base []byte) bool { return c.keeper != nil && c.keeper.Keep(base) }

// waitForGuards returns when every guard that is pinned now has been unpinned:
// the epoch steps only when none is left in the one before, so after three steps
// they are gone.
func (c *Cache) waitForGuards() {
	for steps := 0; steps < 3; {
		if c.epochs.TryAdvance() {
			steps++
		} else {
			spin()
		}
	}
}
