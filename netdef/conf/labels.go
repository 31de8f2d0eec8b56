// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// LabelFile is the administrator's list of the node's rails. LabelName is the name of the one that a program may write, in the
	// state folder; what the administrator says comes before it.
	LabelFile = "/etc/railyard/rails.json"
	LabelName = "rails.json"
	// labelVersion is the version of the format, and maxLabels bounds a list.
	labelVersion, maxLabels = 1, 256
)

// Labels are the NICs of one node by label, each as a link's name, an alternative name, a PCI address or an auxiliary device.
type Labels map[string]string

// ParseLabels reads a list of labels, such as {"version": 1, "rails": {"leaf-0": "0000:3b:00.0"}}. It is strict: it is written by hand,
// and a rail that is silently another one costs days. Errors are an ErrSyntax or name the field.
func ParseLabels(data []byte) (Labels, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var list struct {
		Version int          `json:"version"`
		Rails   labelEntries `json:"rails"`
	}
	if err := d.Decode(&list); err != nil {
		var field *FieldError
		if errors.As(err, &field) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrSyntax)
	}
	switch {
	case list.Version != labelVersion:
		return nil, fieldErrorf("version", "is %d: write %d", list.Version, labelVersion)
	case len(list.Rails) > maxLabels:
		return nil, fieldErrorf("rails", "has %d entries: use at most %d", len(list.Rails), maxLabels)
	}
	out := Labels{}
	var errs []error
	for _, e := range list.Rails {
		at := fmt.Sprintf("rails.%.80s", e.label)
		_, twice := out[e.label]
		switch err := CheckLabel(at, e.label); {
		case err != nil:
			errs = append(errs, err)
		case twice:
			errs = append(errs, fieldErrorf(at, "is there twice: a label stands for one NIC"))
		case e.nic == "":
			errs = append(errs, fieldErrorf(at, "is empty: write a link's name, an alternative name, a PCI address or an auxiliary device"))
		default:
			errs = append(errs, CheckMaster(at, e.nic))
		}
		out[e.label] = e.nic
	}
	if err := bounded(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// labelEntries keeps what a map would hide: a key that is there twice.
type labelEntries []struct{ label, nic string }

func (l *labelEntries) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(fieldErrorf("rails", "is no object: write one like {\"leaf-0\": \"0000:3b:00.0\"}"), err)
	}
	for d.More() {
		var label string
		var nic *string
		key, err := d.Token()
		if err != nil {
			return err
		}
		label, _ = key.(string)
		if err := d.Decode(&nic); err != nil || nic == nil {
			return errors.Join(fieldErrorf(fmt.Sprintf("rails.%.80s", label), "is no string: write the NIC's name or address"), err)
		}
		*l = append(*l, struct{ label, nic string }{label, *nic})
	}
	return nil
}
