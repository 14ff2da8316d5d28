package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

// A phase does its work and returns how many operations it had, and their
// latencies.
type phase func(s *store) (ops int, latency *workload.Histogram, err error)

var phaseOf = map[string]phase{
	"load": func(s *store) (int, *workload.Histogram, error) {
		latency, err := s.fill()
		return s.rows.Keys, latency, err
	},
	"uniform": func(s *store) (int, *workload.Histogram, error) { return s.overwrite(s.uniform()) },
	"zipf":    func(s *store) (int, *workload.Histogram, error) { return s.overwrite(s.skewed()) },
	"delete":  func(s *store) (int, *workload.Histogram, error) { return s.half((*worker).delete) },
	"refill":  func(s *store) (int, *workload.Histogram, error) { return s.half((*worker).set) },
	"idle": func(s *store) (int, *workload.Histogram, error) {
		time.Sleep(s.config.idle)
		return 0, &workload.Histogram{}, nil
	},
}

// overwrite sets twice as many keys as there are, drawn by draw.
func (s *store) overwrite(draw func(op int) int) (int, *workload.Histogram, error) {
	n := 2 * s.rows.Keys
	latency, err := s.parallel(n, func(w *worker, op int) error { return w.set(draw(op)) })
	return n, latency, err
}

// half calls f for every second key.
func (s *store) half(f func(w *worker, i int) error) (int, *workload.Histogram, error) {
	n := s.rows.Keys / 2
	latency, err := s.parallel(n, func(w *worker, op int) error { return f(w, 2*op) })
	return n, latency, err
}

// A result is what a phase cost.
type result struct {
	name          string
	ops           int
	took          time.Duration
	latency       *workload.Histogram
	before, after db.Metrics
	space, live   int64 // at the end
	largest       extremes
	first, again  coldReads
	coldWritten   uint64 // bytes written during the cold reads
}

func phases(c config) error {
	var run []phase
	names := strings.Split(c.phases, ",")
	for _, name := range names {
		p, known := phaseOf[name]
		if !known {
			return fmt.Errorf("there is no phase %q", name)
		}
		run = append(run, p)
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	w := startWatch(s.db, c.dir, s.rows, c.sample)
	var results []*result
	for i, p := range run {
		r, err := s.run(w, names[i], p)
		if err != nil {
			return fmt.Errorf("phase %s: %w", names[i], err)
		}
		results = append(results, r)
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", r.name, r.took.Seconds())
	}
	if err := w.close(); err != nil {
		return err
	}
	if err := s.db.Close(); err != nil {
		return err
	}
	s.print(results)
	return nil
}

func (s *store) run(w *watch, name string, p phase) (r *result, err error) {
	r = &result{name: name}
	w.begin()
	r.before = s.db.Metrics()
	start := time.Now()
	if r.ops, r.latency, err = p(s); err != nil {
		return nil, err
	}
	if err := s.db.Sync(); err != nil {
		return nil, err
	}
	r.took = time.Since(start)
	r.after = s.db.Metrics()
	r.live = s.rows.Live()
	if r.space, err = workload.DiskBytes(s.config.dir); err != nil {
		return nil, err
	}
	if s.config.cold > 0 {
		if r.first, r.again, err = s.readCold(s.config.cold); err != nil {
			return nil, err
		}
	}
	r.coldWritten = written(s.db.Metrics()) - written(r.after)
	r.largest = w.largest()
	return r, nil
}

// written returns the bytes written to files.
func written(m db.Metrics) uint64 { return m.Disk.BytesWritten + m.Disk.SnapshotBytes }

func (s *store) print(results []*result) {
	t := newTable("", "rate/s", "written/user byte", "of it snapshots", "space at end", "largest", "above 2x MiB", "peak RSS MiB", "of goal", "cache")
	goal := s.config.cacheBytes()*5/4 + 64<<20
	for _, r := range results {
		user := float64(r.after.Disk.UserBytes - r.before.Disk.UserBytes)
		t.row(r.name, rate(r.ops, r.took),
			ratio(float64(written(r.after)-written(r.before)), user),
			ratio(float64(r.after.Disk.SnapshotBytes-r.before.Disk.SnapshotBytes), user),
			ratio(float64(r.space), float64(r.live)), fmt.Sprintf("%.2f", r.largest.ratio), mib(r.largest.excess),
			mib(r.largest.rss), ratio(float64(r.largest.rss), float64(goal)),
			ratio(float64(r.largest.memory), float64(s.config.cacheBytes())))
	}
	t.print()

	t = newTable("Set, Delete", "p50", "p99", "p99.9", "max", "throttled", "slowed")
	for _, r := range results {
		t.row(r.name, short(r.latency.Quantile(.5)), short(r.latency.Quantile(.99)), short(r.latency.Quantile(.999)), short(r.latency.Max),
			r.after.Disk.Throttled-r.before.Disk.Throttled, r.after.Space.SlowedWrites-r.before.Space.SlowedWrites)
	}
	t.print()

	if s.config.cold > 0 {
		t = newTable("cold Gets", "cold of", "reads first", "again", "time first", "again", "written meanwhile MiB")
		for _, r := range results {
			t.row(r.name, fmt.Sprintf("%d/%d", r.first.gets, s.config.cold), r.first.perGet(), r.again.perGet(),
				short(r.first.mean()), short(r.again.mean()), mib(int64(r.coldWritten)))
		}
		t.print()
	}
	for _, part := range []string{"Memory", "Space", "Pages", "Disk"} {
		printPart(part, results)
	}
}

// printPart prints all fields of one struct of Metrics after each phase, whatever
// fields it has: bytes as MiB, numbers since Open as they are.
func printPart(part string, results []*result) {
	first := reflect.ValueOf(results[0].after).FieldByName(part)
	head := []string{part}
	for i := range first.NumField() {
		head = append(head, first.Type().Field(i).Name)
	}
	t := newTable(head...)
	for _, r := range results {
		cells := []any{r.name}
		v := reflect.ValueOf(r.after).FieldByName(part)
		for i := range v.NumField() {
			field := v.Field(i).Interface()
			if n, ok := field.(int64); ok {
				field = mib(n)
			}
			cells = append(cells, field)
		}
		t.row(cells...)
	}
	t.print()
}
