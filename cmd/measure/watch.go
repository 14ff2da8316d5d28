package main

import (
	"sync"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

// A watch samples the size of a store and of the process until it is stopped.
type watch struct {
	// Immutable.
	db   *db.DB
	dir  string
	rows *workload.Rows
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	most extremes // Guarded by mu.
	err  error    // Guarded by mu. The first.
}

// extremes are the largest of all samples.
type extremes struct {
	ratio  float64 // space over live data
	excess int64   // bytes of space above twice the live data
	memory int64   // MemoryMetrics.Used
	rss    int64   // bytes
}

func startWatch(d *db.DB, dir string, r *workload.Rows, interval time.Duration) *watch {
	w := &watch{db: d, dir: dir, rows: r, stop: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
				w.sample()
			}
		}
	})
	return w
}

// close ends the sampling and returns the first error it met.
func (w *watch) close() error {
	close(w.stop)
	w.done.Wait()
	return w.err
}

// begin forgets what was sampled and sets the peak of resident memory back.
func (w *watch) begin() {
	w.mu.Lock()
	w.most = extremes{}
	w.mu.Unlock()
	workload.ResetPeak()
}

// largest returns the largest samples since begin.
func (w *watch) largest() extremes {
	w.sample()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most.rss = max(w.most.rss, workload.PeakBytes())
	return w.most
}

// sample takes one. Live data are looked at before and after the files, and the
// larger count, so that what is written in between is no one's fault.
func (w *watch) sample() {
	before := w.rows.Live()
	space, err := workload.DiskBytes(w.dir)
	live := max(before, w.rows.Live())
	memory := w.db.Metrics().Memory.Used

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	m := &w.most
	if live >= w.rows.All()/10 {
		m.ratio = max(m.ratio, float64(space)/float64(live))
	}
	m.excess = max(m.excess, space-2*live)
	m.memory = max(m.memory, memory)
	m.rss = max(m.rss, workload.ResidentBytes())
}
