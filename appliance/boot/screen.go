package boot

import (
	"fmt"
	"strconv"
	"strings"

	"armarium/daemon/platform"
)

// width is that of a text screen.
const width = 80

// Screen is the status screen: the state of the box as text of 80 columns. It holds nothing
// that changes by itself every second, so that it can be compared with what is shown.
func Screen(s platform.State) string {
	var b strings.Builder
	rule := strings.Repeat("-", width-1) + "\n"
	b.WriteString(rule)
	fmt.Fprintf(&b, "ARMARIUM %s\n", s.Version)
	word := "State"
	if s.Alarm {
		word = "ALARM"
	}
	row(&b, word, s.Sentence)
	for i, t := range s.Todo {
		if i == 0 {
			row(&b, "What to do", t)
		} else {
			row(&b, "", t)
		}
	}
	row(&b, "Host", orNone(s.Host))
	net := strings.Join(s.Network.Addresses, " ")
	if net == "" {
		net = "none"
	}
	net += " (" + s.Network.Kind
	if s.Network.Gateway != "" {
		net += ", gateway " + s.Network.Gateway
	}
	net += ")"
	if s.Network.Note != "" {
		net += ", " + s.Network.Note
	}
	row(&b, "Addresses", net)
	row(&b, "Pages", orNone(s.UI))
	row(&b, "Seal code", orNone(s.Seal)+" ("+s.Settings+")")
	row(&b, "Stick lock", join(s.Lock, s.LockNote))
	for i, d := range s.Disks {
		label := ""
		if i == 0 {
			label = "Disks"
		}
		row(&b, label, diskText(d))
	}
	if len(s.Disks) == 0 {
		row(&b, "Disks", "none")
	}
	row(&b, "Time", join(s.Time.State+", "+s.Time.Source, s.Time.Note))
	d := s.Daemon.State
	if s.Daemon.Starts > 1 {
		d += fmt.Sprintf(", started %d times, last end: %s", s.Daemon.Starts, s.Daemon.LastExit)
	}
	row(&b, "Daemon", d)
	b.WriteString(rule)
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + "; " + b
}

func diskText(d platform.Disk) string {
	name := d.Mount
	if name == "" {
		name = "other disk"
	}
	t := name + " " + d.State
	if d.Total > 0 {
		t += fmt.Sprintf(", %s, %d %% used", bytesText(d.Total), (d.Total-min(d.Free, d.Total))*100/d.Total)
	} else if d.Size > 0 {
		t += ", " + bytesText(d.Size)
	}
	if d.Serial != "" {
		t += ", serial " + d.Serial
	}
	return join(t, d.Note)
}

// bytesText gives a size with three digits: "931 GB".
func bytesText(n uint64) string {
	v, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 1000 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	if v < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}

// row writes a labelled text, broken into lines at blanks.
func row(b *strings.Builder, label, text string) {
	const indent = 12
	line := fmt.Sprintf("%-*s", indent, label)
	used := indent
	for i, w := range strings.Fields(text) {
		if i > 0 && used+1+len([]rune(w)) > width-1 {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, used = strings.Repeat(" ", indent), indent
		} else if i > 0 {
			line += " "
			used++
		}
		line += w
		used += len([]rune(w))
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

// shortLog makes a line of the daemon's log short enough for a serial line: of slog's text
// form the date, the quotes of the message and the keys time, level and msg are left out.
// Other lines stay as they are.
func shortLog(line string) string {
	const most = 240
	out := line
	if rest, ok := strings.CutPrefix(line, "time="); ok {
		stamp, rest, _ := strings.Cut(rest, " ")
		if _, clock, ok := strings.Cut(stamp, "T"); ok && len(clock) >= 8 {
			stamp = clock[:8]
		}
		level, rest := field(rest, "level=")
		msg, rest := field(rest, "msg=")
		out = stamp
		if level != "INFO" && level != "" {
			out += " " + level
		}
		out += " " + msg
		for rest != "" {
			key, _, ok := strings.Cut(rest, "=")
			if !ok {
				out += " " + rest
				break
			}
			var value string
			value, rest = field(rest, key+"=")
			switch key {
			case "part": // the message says enough
				continue
			case "au": // long, and different at its end only
				if r := []rune(value); len(r) > 34 {
					value = "…" + string(r[len(r)-32:])
				}
			}
			if strings.Contains(value, " ") {
				value = strconv.Quote(value)
			}
			out += " " + key + "=" + value
		}
	}
	if r := []rune(out); len(r) > most {
		out = string(r[:most-1]) + "…"
	}
	return out
}

// field takes a key's value from the head of a log line: a word, or a text in quotes.
func field(s, key string) (value, rest string) {
	v, ok := strings.CutPrefix(s, key)
	if !ok {
		return "", s
	}
	if strings.HasPrefix(v, `"`) {
		for i := 1; i < len(v); i++ {
			if v[i] == '\\' {
				i++
			} else if v[i] == '"' {
				return strings.ReplaceAll(v[1:i], `\"`, `"`), strings.TrimPrefix(v[i+1:], " ")
			}
		}
	}
	value, rest, _ = strings.Cut(v, " ")
	return value, rest
}
