package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// Problem is a parameter that could not be used as it stands; its default holds instead.
type Problem struct {
	Name, Value, Msg string
}

func (p Problem) String() string { return fmt.Sprintf("%s = %q: %s", p.Name, p.Value, p.Msg) }

// Fill sets the fields of the struct that v points to from the parameters named in their
// tags, and returns what was wrong. A field is tagged
//
//	Quorum int `prop:"org.lockss.poll.v3.quorum" default:"5"` // votes
//
// and is of type string, bool, int, int64, float64 (a fraction, or a percentage with "%"),
// time.Duration (config.md 5.5), []string (a ";" list) or lockss.Rate. Fields without the
// tag are left alone; embedded and nested structs are filled too. Text that does not parse
// gives the default and a Problem, as in 1.x.
func (s *Snapshot) Fill(v any) []Problem {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.Elem().Kind() != reflect.Struct {
		return []Problem{{Msg: fmt.Sprintf("%T is not a pointer to a struct", v)}}
	}
	var problems []Problem
	eachField(rv.Elem(), func(f reflect.Value, name, def string) {
		text, ok := s.values[name]
		if ok && strings.TrimSpace(text) != "" {
			err := setField(f, strings.TrimSpace(text))
			if err == nil {
				return
			}
			problems = append(problems, Problem{name, text, err.Error() + "; the default " + strconv.Quote(def) + " is used"})
		}
		if err := setField(f, def); err != nil {
			problems = append(problems, Problem{name, def, "bad default: " + err.Error()})
		}
	})
	return problems
}

// Names gives the parameters that the tags of the given structs (or pointers to structs)
// name, with their defaults.
func Names(vs ...any) map[string]string {
	names := map[string]string{}
	for _, v := range vs {
		rv := reflect.ValueOf(v)
		if rv.Kind() == reflect.Pointer {
			rv = rv.Elem()
		}
		if rv.Kind() == reflect.Struct {
			eachField(rv, func(_ reflect.Value, name, def string) { names[name] = def })
		}
	}
	return names
}

func eachField(v reflect.Value, fn func(f reflect.Value, name, def string)) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		if name, ok := sf.Tag.Lookup("prop"); ok {
			fn(v.Field(i), name, sf.Tag.Get("default"))
		} else if sf.Type.Kind() == reflect.Struct {
			eachField(v.Field(i), fn)
		}
	}
}

func setField(f reflect.Value, text string) error {
	switch f.Interface().(type) {
	case time.Duration:
		if text == "" {
			text = "0"
		}
		d, err := lockss.ParseInterval(text)
		if err != nil {
			return err
		}
		f.SetInt(int64(d))
		return nil
	case lockss.Rate:
		r := lockss.Rate{}
		if text != "" {
			var err error
			if r, err = lockss.ParseRate(text); err != nil {
				return err
			}
		}
		f.Set(reflect.ValueOf(r))
		return nil
	case []string:
		f.Set(reflect.ValueOf(SplitList(text)))
		return nil
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		b, err := parseBool(text)
		if err != nil {
			return err
		}
		f.SetBool(b)
	case reflect.Int, reflect.Int64:
		if text == "" {
			text = "0"
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || f.OverflowInt(n) {
			return fmt.Errorf("not a whole number")
		}
		f.SetInt(n)
	case reflect.Float64:
		if text == "" {
			text = "0"
		}
		num, percent := strings.CutSuffix(text, "%")
		x, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil {
			return fmt.Errorf("not a number")
		}
		if percent {
			x /= 100
		}
		f.SetFloat(x)
	default:
		return fmt.Errorf("a field of type %s cannot hold a parameter", f.Type())
	}
	return nil
}

// parseBool reads the words of config.md 5.5; "" is false.
func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "y", "on", "1":
		return true, nil
	case "false", "no", "n", "off", "0", "":
		return false, nil
	}
	return false, fmt.Errorf("not a truth value (write true or false)")
}

// SplitList gives the elements of a ";" list, trimmed, without the empty ones.
func SplitList(text string) []string {
	var list []string
	for _, e := range strings.Split(text, ";") {
		if e = strings.TrimSpace(e); e != "" {
			list = append(list, e)
		}
	}
	return list
}
