package pagecache

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/pulkdb/db/log"
)

// replayedPages are the pages that replay has touched, by PID: in small chunks,
// since a lookup in a map of all of them misses the processor's caches.
type replayedPages struct {
	chunks map[PID]*replayedChunk // by PID / replayedChunkPages
	block  []replayed             // what new ones are carved from
	last   PID                    // the highest touched
}

const (
	replayedChunkPages = 16
	replayedBlockPages = 256
)

type replayedChunk [replayedChunkPages]*replayed

// get returns what is known of a page; a new one that knows nothing if it was not
// touched before.
func (r *replayedPages) get(pid PID) (p *replayed, known bool) {
	chunk := r.chunks[pid/replayedChunkPages]
	if chunk == nil {
		chunk = &replayedChunk{}
		r.chunks[pid/replayedChunkPages] = chunk
	}
	slot := &chunk[pid%replayedChunkPages]
	if *slot != nil {
		return *slot, true
	}
	if len(r.block) == 0 {
		r.block = make([]replayed, replayedBlockPages)
	}
	*slot, r.block = &r.block[0], r.block[1:]
	r.last = max(r.last, pid)
	return *slot, false
}

// each calls fn with every page, from several goroutines.
func (r *replayedPages) each(fn func(PID, *replayed)) {
	keys := slices.Sorted(maps.Keys(r.chunks))
	_ = inParallel(len(keys), 64, func(_, from, to int) error {
		for _, key := range keys[from:to] {
			for i, p := range r.chunks[key] {
				if p != nil {
					fn(key*replayedChunkPages+PID(i), p)
				}
			}
		}
		return nil
	})
}

// recoverersMax bounds the goroutines of one step of recovery.
const recoverersMax = 8

// parts is into how many parts inParallel cuts n items.
func parts(n, least int) int { return max(1, min(runtime.GOMAXPROCS(0), recoverersMax, n/least)) }

// inParallel calls fn for consecutive parts of n items, of at least some size
// each, in goroutines of their own.
func inParallel(n, least int, fn func(part, from, to int) error) error {
	count := parts(n, least)
	errs := make([]error, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() { errs[i] = fn(i, n*i/count, n*(i+1)/count) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// accountRecovered counts the live bytes of all segments and queues the free
// PIDs.
func (c *Cache) accountRecovered() error {
	const least = 4096
	last := int(c.pids.next - 1)
	if last > 0 {
		c.table.reach(PID(last))
	}
	free := make([][]PID, parts(last, least))
	err := inParallel(last, least, func(part, from, to int) (err error) {
		free[part], err = c.accountRange(PID(from)+1, PID(to))
		return err
	})
	c.pids.queue = slices.Concat(free...)
	return err
}

// accountRange is accountRecovered for the PIDs from first to last. It returns
// the free ones.
func (c *Cache) accountRange(first, last PID) (free []PID, err error) {
	var positions []log.Position
	for pid := first; pid <= last; pid++ {
		word := c.table.slot(pid).Load()
		switch {
		case word == 0:
			free = append(free, pid)
			continue
		case c.headerAt(word).kind == nodeFree:
			free = append(free, pid)
			if p := c.freeAt(word).position(); !p.IsZero() {
				c.log.Account(p, true)
			}
			continue
		}
		positions = c.bottomAt(word).appendPositions(positions[:0])
		if !slices.IsSortedFunc(positions[1:], func(a, b log.Position) int { return int(int64(a.LSN) - int64(b.LSN)) }) {
			return nil, fmt.Errorf("pagecache: page %d: fragments out of order: %w", pid, ErrCorrupt)
		}
		c.noteBase(positions[0], true)
		for _, p := range positions {
			c.log.Account(p, true)
		}
	}
	return free, nil
}
