package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A summary is what results come to: medians of the rounds.
type summary struct {
	stores []string
	lines  []line
}

// A line is one workload with one number of goroutines.
type line struct {
	load       *load
	goroutines int
	of         map[string]medians // by store
}

// A medians is the median round of one store.
type medians struct {
	result
	spread float64 // of the rates: half the range over the median
}

func median[T cmp.Ordered](all []T) T {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

func summarize(results []result) summary {
	var s summary
	for _, k := range append(slices.Clone(kindNames()), resultNames(results)...) {
		if !slices.Contains(s.stores, k) && slices.Contains(resultNames(results), k) {
			s.stores = append(s.stores, k)
		}
	}
	for _, l := range loads {
		for _, goroutines := range l.goroutines {
			x := line{l, goroutines, make(map[string]medians)}
			for _, name := range s.stores {
				if m, ok := medianOf(results, l.name, goroutines, name); ok {
					x.of[name] = m
				}
			}
			if len(x.of) > 0 {
				s.lines = append(s.lines, x)
			}
		}
	}
	return s
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

func resultNames(results []result) (names []string) {
	for i := range results {
		if !slices.Contains(names, results[i].Kind) {
			names = append(names, results[i].Kind)
		}
	}
	return names
}

// medianOf takes the median of each figure by itself.
func medianOf(results []result, load string, goroutines int, store string) (medians, bool) {
	var rounds []result
	for _, x := range results {
		if x.Kind == store && x.Workload == load && x.Goroutines == goroutines && !x.Unsupported {
			rounds = append(rounds, x)
		}
	}
	if len(rounds) == 0 {
		return medians{}, false
	}
	m := medians{result: rounds[0]}
	m.Rate = medianBy(rounds, func(x result) float64 { return x.Rate })
	m.P50 = medianBy(rounds, func(x result) time.Duration { return x.P50 })
	m.P99 = medianBy(rounds, func(x result) time.Duration { return x.P99 })
	m.P999 = medianBy(rounds, func(x result) time.Duration { return x.P999 })
	m.Allocs = medianBy(rounds, func(x result) float64 { return x.Allocs })
	m.AllocBytes = medianBy(rounds, func(x result) float64 { return x.AllocBytes })
	m.CPU = medianBy(rounds, func(x result) time.Duration { return x.CPU })
	m.PeakRSS = medianBy(rounds, func(x result) int64 { return x.PeakRSS })
	m.Space = medianBy(rounds, func(x result) float64 { return x.Space })
	m.Written = medianBy(rounds, func(x result) float64 { return x.Written })
	least, most := rounds[0].Rate, rounds[0].Rate
	for _, x := range rounds {
		least, most = min(least, x.Rate), max(most, x.Rate)
		m.Cut = m.Cut || x.Cut
	}
	m.spread = (most - least) / 2 / m.Rate
	return m, true
}

func medianBy[T cmp.Ordered](rounds []result, f func(result) T) T {
	var all []T
	for _, x := range rounds {
		all = append(all, f(x))
	}
	return median(all)
}

// bestPeer returns the highest rate of the stores that are written in Go, other
// than pulk.
func (l line) bestPeer() (best float64) {
	for name, m := range l.of {
		if k, _ := kindOf(name); name != "pulk" && name != "lmdb" && !k.cgo {
			best = max(best, m.Rate)
		}
	}
	return best
}

// leastCPU returns the least processor time of an operation among the same stores. On a
// busy machine it says more than rates do.
func (l line) leastCPU() (least time.Duration) {
	for name, m := range l.of {
		if k, _ := kindOf(name); name != "pulk" && name != "lmdb" && !k.cgo && (least == 0 || m.CPU < least) {
			least = m.CPU
		}
	}
	return least
}

func (l line) name() string {
	if len(l.load.goroutines) == 1 {
		return l.load.name
	}
	return fmt.Sprintf("%s, %d", l.load.name, l.goroutines)
}

// print prints tables in Markdown.
func (s summary) print(w io.Writer) {
	columns := func(title string, cell func(l line, m medians) string) {
		fmt.Fprintf(w, "\n| %s | %s |\n|%s\n", title, strings.Join(s.stores, " | "), strings.Repeat("---|", len(s.stores)+1))
		for _, l := range s.lines {
			cells, some := "", false
			for _, name := range s.stores {
				text := ""
				if m, ok := l.of[name]; ok {
					text = cell(l, m)
				}
				cells += " " + text + " |"
				some = some || text != ""
			}
			if some {
				fmt.Fprintf(w, "| %s |%s\n", l.name(), cells)
			}
		}
	}
	fmt.Fprintf(w, "\n| operations/s, goroutines | %s | pulk / best in Go | pulk / lmdb |\n|%s\n", strings.Join(s.stores, " | "), strings.Repeat("---|", len(s.stores)+3))
	for _, l := range s.lines {
		fmt.Fprintf(w, "| %s |", l.name())
		for _, name := range s.stores {
			fmt.Fprintf(w, " %s |", l.rate(name))
		}
		fmt.Fprintf(w, " %s | %s |\n", ratio(l.of["pulk"].Rate, l.bestPeer()), ratio(l.of["pulk"].Rate, l.of["lmdb"].Rate))
	}
	columns("p50, p99, p99.9", func(l line, m medians) string {
		if l.load.unit == "ms" {
			return ""
		}
		return fmt.Sprintf("%s %s %s", short(m.P50), short(m.P99), short(m.P999))
	})
	columns("CPU and allocations of an operation", func(l line, m medians) string {
		if l.load.unit == "ms" {
			return ""
		}
		text := fmt.Sprintf("%s %.1f", short(m.CPU), m.Allocs)
		if m.Kind == "pulk" && l.leastCPU() > 0 {
			text += fmt.Sprintf(", %.2fx", float64(l.leastCPU())/float64(max(m.CPU, 1)))
		}
		return text
	})
	columns("peak memory, MiB", func(l line, m medians) string {
		if l.load.unit == "ms" {
			return ""
		}
		return fmt.Sprintf("%.0f", float64(m.PeakRSS)/(1<<20))
	})
	columns("written per user byte, space over live data", func(l line, m medians) string {
		if m.Written == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f %.2f", m.Written, m.Space)
	})
}

func (l line) rate(store string) string {
	m, ok := l.of[store]
	if !ok {
		return ""
	}
	text := number(m.Rate)
	if l.load.unit == "ms" {
		text = fmt.Sprintf("%.1f ms", 1000/m.Rate)
	}
	text += fmt.Sprintf(" ±%.0f%%", 100*m.spread)
	if m.Cut {
		text += " (cut)"
	}
	return text
}

// number prints n with three digits.
func number(n float64) string {
	switch {
	case n >= 999_500:
		return fmt.Sprintf("%.2fM", n/1e6)
	case n >= 9_995:
		return fmt.Sprintf("%.0fk", n/1e3)
	case n >= 999.5:
		return fmt.Sprintf("%.1fk", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d >= 10*time.Microsecond:
		return d.Round(time.Microsecond).String()
	}
	return d.Round(10 * time.Nanosecond).String()
}
