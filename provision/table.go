package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is a status table of a node: named, titled columns with types, and rows by
// column name.
type table struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Columns []column `json:"columns"`
	Rows    []row    `json:"rows"`
}

type column struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Type  string `json:"type"`
}

type row map[string]any

func parseTable(b []byte) (table, error) {
	var t table
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("the node's answer is no table: %w", err)
	}
	return t, nil
}

// text is the first of the named values that is there, as text.
func (r row) text(names ...string) string {
	for _, n := range names {
		switch v := r[n].(type) {
		case string:
			if v != "" {
				return v
			}
		case json.Number:
			return v.String()
		}
	}
	return ""
}

// num is the first of the named values that is a number, or 0.
func (r row) num(names ...string) float64 {
	for _, n := range names {
		if v, ok := r[n].(json.Number); ok {
			f, _ := v.Float64()
			return f
		}
	}
	return 0
}

func (r row) flag(name string) bool { b, _ := r[name].(bool); return b }

// when is a time, zero if there is none.
func (r row) when(name string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, r.text(name))
	if err != nil || t.Year() < 1971 {
		return time.Time{}
	}
	return t
}

// member is a member of a JSON object, in the order of the text.
type member struct {
	key   string
	value any // string, json.Number, bool, nil, []any, object
}

type object []member

func (o object) get(key string) (any, bool) {
	for _, m := range o {
		if m.key == key {
			return m.value, true
		}
	}
	return nil, false
}

// decode reads any JSON value and keeps the order of members.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = fmt.Errorf("text after the value")
		}
	}
	return v, err
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > 100 {
		return nil, fmt.Errorf("nested too deeply")
	}
	tok, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := object{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			o = append(o, member{k.(string), v})
		}
		_, err = d.Token()
		return o, err
	case json.Delim('['):
		l := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err = d.Token()
		return l, err
	}
	return tok, nil
}

// render prints a node's answer for people: tables as tables, other values as indented
// lines.
func render(w io.Writer, b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	v, err := decode(b)
	if err != nil {
		return fmt.Errorf("the node's answer is not JSON: %w", err)
	}
	renderValue(w, v, "")
	return nil
}

func renderValue(w io.Writer, v any, indent string) {
	switch v := v.(type) {
	case object:
		if _, ok := v.get("columns"); ok {
			if _, ok := v.get("rows"); ok {
				renderTable(w, v)
				return
			}
		}
		width := 0
		for _, m := range v {
			if scalar(m.value) && !empty(m.value) {
				width = max(width, utf8.RuneCountInString(m.key))
			}
		}
		for _, m := range v {
			switch {
			case empty(m.value):
			case scalar(m.value):
				fmt.Fprintf(w, "%s%-*s  %s\n", indent, width, m.key, cell(m.value, guess(m.key, m.value)))
			default:
				fmt.Fprintf(w, "%s%s:\n", indent, m.key)
				renderValue(w, m.value, indent+"  ")
			}
		}
	case []any:
		for i, e := range v {
			if scalar(e) {
				fmt.Fprintf(w, "%s%s\n", indent, cell(e, ""))
				continue
			}
			if i > 0 {
				fmt.Fprintln(w)
			}
			renderValue(w, e, indent)
		}
	default:
		fmt.Fprintf(w, "%s%s\n", indent, cell(v, ""))
	}
}

func scalar(v any) bool {
	switch v.(type) {
	case object, []any:
		return false
	}
	return true
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || strings.HasPrefix(v, "0001-01-01T")
	case object:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// guess is the type of a value that stands outside a table.
func guess(key string, v any) string {
	lower := strings.ToLower(key)
	if _, ok := v.(json.Number); ok {
		switch {
		case strings.HasSuffix(lower, "bytes"), lower == "size", lower == "total", lower == "free":
			return "bytes"
		case strings.Contains(lower, "agreement"):
			return "percent"
		}
	}
	return ""
}

// renderTable prints a table with aligned columns; numbers stand right. Columns without any
// value are left out, and so are the long ids of units where their names stand beside.
func renderTable(w io.Writer, o object) {
	var cols []column
	cv, _ := o.get("columns")
	list, _ := cv.([]any)
	for _, c := range list {
		co, ok := c.(object)
		if !ok {
			continue
		}
		text := func(k string) string { v, _ := co.get(k); s, _ := v.(string); return s }
		cols = append(cols, column{text("name"), text("title"), text("type")})
	}
	rv, _ := o.get("rows")
	rows, _ := rv.([]any)
	named := slices.ContainsFunc(cols, func(c column) bool { return c.Name == "name" })
	cols = slices.DeleteFunc(cols, func(c column) bool {
		return c.Type == "au" && named || len(rows) > 0 && !slices.ContainsFunc(rows, func(r any) bool {
			ro, _ := r.(object)
			v, _ := ro.get(c.Name)
			return !empty(v)
		})
	})
	if tv, _ := o.get("title"); tv != nil && tv != "" {
		fmt.Fprintf(w, "%v\n", tv)
	}
	cells := make([][]string, 0, len(rows)+1)
	width := make([]int, len(cols))
	right := make([]bool, len(cols))
	head := make([]string, len(cols))
	for i, c := range cols {
		head[i] = c.Title
		if head[i] == "" {
			head[i] = c.Name
		}
		right[i] = true
	}
	for _, r := range rows {
		ro, _ := r.(object)
		line := make([]string, len(cols))
		for i, c := range cols {
			v, _ := ro.get(c.Name)
			line[i] = cell(v, c.Type)
			if _, num := v.(json.Number); !num && v != nil {
				right[i] = false
			}
		}
		cells = append(cells, line)
	}
	for _, l := range append([][]string{head}, cells...) {
		for i, s := range l {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	print := func(l []string) {
		var b strings.Builder
		for i, s := range l {
			if i > 0 {
				b.WriteString("  ")
			}
			fill := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			if right[i] && len(rows) > 0 {
				b.WriteString(fill + s)
			} else {
				b.WriteString(s + fill)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	print(head)
	for _, l := range cells {
		print(l)
	}
}

// cell is a value as text by the type of its column.
func cell(v any, typ string) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			if t.Year() < 1971 {
				return ""
			}
			return t.Local().Format("2006-01-02 15:04:05")
		}
		return clean(v)
	case json.Number:
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		switch strings.ToLower(typ) {
		case "bytes", "size":
			if f < 0 {
				return "?"
			}
			return byteText(f)
		case "percent", "agreement", "fraction", "share":
			if f < 0 {
				return ""
			}
			// Cut, not rounded: only all is 100 %.
			return strconv.FormatFloat(math.Floor(f*1e4+1e-9)/100, 'f', -1, 64) + " %"
		case "duration":
			// The faces give nanoseconds, as Go encodes durations.
			return time.Duration(f).Round(time.Second).String()
		case "int", "count", "number":
			if f == -1 {
				return "?"
			}
		}
		return v.String()
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, cell(e, ""))
		}
		return strings.Join(parts, ", ")
	case object:
		// A linked value: its text is what people read.
		for _, k := range []string{"text", "name", "value"} {
			if x, ok := v.get(k); ok {
				return cell(x, typ)
			}
		}
		var parts []string
		for _, m := range v {
			parts = append(parts, m.key+"="+cell(m.value, ""))
		}
		return strings.Join(parts, ", ")
	}
	return fmt.Sprint(v)
}

// clean replaces control characters: what a node tells must not drive the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func byteText(f float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return strconv.FormatFloat(math.Trunc(f), 'f', 0, 64) + " B"
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[i]
}
