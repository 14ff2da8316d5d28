package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// A cycle is what a store looked like when it was full, and when it was empty
// again.
type cycle struct {
	fill                  time.Duration
	fullPages, emptyPages uint64
	fullSpace, emptySpace int64
	fullScan, emptyScan   time.Duration
}

// cycles fills a store and deletes everything again, time after time.
func cycles(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	var all []cycle
	t := newTable("", "fill s", "pages full", "empty", "space full MiB", "empty", "scan full ms", "empty")
	for n := range c.cycles {
		x, err := s.cycle()
		if err != nil {
			return fmt.Errorf("cycle %d: %w", n+1, err)
		}
		all = append(all, x)
		t.row(n+1, fmt.Sprintf("%.1f", x.fill.Seconds()), x.fullPages, x.emptyPages, mib(x.fullSpace), mib(x.emptySpace), ms(x.fullScan), ms(x.emptyScan))
	}
	compare := func(name string, first, last []cycle) {
		row := []any{name}
		for _, of := range []func(cycle) float64{
			func(x cycle) float64 { return float64(x.fill) },
			func(x cycle) float64 { return float64(x.fullPages) },
			func(x cycle) float64 { return float64(x.emptyPages) },
			func(x cycle) float64 { return float64(x.fullSpace) },
			func(x cycle) float64 { return float64(x.emptySpace) },
			func(x cycle) float64 { return float64(x.fullScan) },
			func(x cycle) float64 { return float64(x.emptyScan) },
		} {
			row = append(row, ratio(median(last, of), median(first, of)))
		}
		t.row(row...)
	}
	n := len(all)
	compare("last/first", all[:1], all[n-1:])
	// One cycle differs from the next by more than a trend would.
	third := max(1, n/3)
	compare(fmt.Sprintf("last %d/first %d, medians", third, third), all[:third], all[n-third:])
	t.print()
	return s.db.Close()
}

func median(all []cycle, of func(cycle) float64) float64 {
	values := make([]float64, len(all))
	for i, x := range all {
		values[i] = of(x)
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

func (s *store) cycle() (x cycle, err error) {
	start := time.Now()
	if _, err := s.fill(); err != nil {
		return x, err
	}
	x.fill = time.Since(start)
	if x.fullPages, x.fullSpace, x.fullScan, err = s.look(); err != nil {
		return x, err
	}
	if _, err := s.parallel(s.rows.Keys, (*worker).delete); err != nil {
		return x, err
	}
	x.emptyPages, x.emptySpace, x.emptyScan, err = s.look()
	return x, err
}

// rest waits until the store has done nothing of its own for so long as settle says: it
// merges, splits and joins pages, and cleans, when nobody uses it. After two minutes it
// takes it as it is.
func (s *store) rest() {
	type work struct {
		written uint64
		pages   uint64
		reads   uint64
	}
	last, quiet := work{}, time.Duration(0)
	const poll = 250 * time.Millisecond
	for end := time.Now().Add(2 * time.Minute); quiet < s.config.settle && time.Now().Before(end); {
		time.Sleep(poll)
		m := s.db.Metrics()
		now := work{written(m), m.Pages.Pages, m.Pages.GatherReads}
		if quiet += poll; now != last {
			last, quiet = now, 0
		}
	}
}

// look waits for the store to come to rest and measures it.
func (s *store) look() (pages uint64, space int64, scan time.Duration, err error) {
	if err := s.db.Sync(); err != nil {
		return 0, 0, 0, err
	}
	s.rest()
	if space, err = workload.DiskBytes(s.config.dir); err != nil {
		return 0, 0, 0, err
	}
	pages = s.db.Metrics().Pages.Pages
	scan, err = s.fullScan()
	return pages, space, scan, err
}
