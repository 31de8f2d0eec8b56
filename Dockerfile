# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# The image that manifests/install runs: our programs, and the C library for the one that is not static. "make image" builds one like it without Docker.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) -t ghcr.io/railyard-net/railyard:v0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev TARGETOS TARGETARCH
RUN mkdir -p /out/bin /out/tmp && chmod 1777 /out/tmp \
 && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/railyard-net/railyard/cmd/internal/build.version=$VERSION" -o /out/bin/ ./cmd/... \
 && printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >/out/passwd

# The device plugin loads the library of NVIDIA's driver from the node, which needs the C library that it is linked with, and what that library asks for.
FROM golang:1.26 AS gpu
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN mkdir -p /out/bin /out/lib \
 && CGO_ENABLED=1 CGO_CFLAGS="-O2 -Wno-deprecated-declarations" go build -tags netgo,osusergo -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/railyard-net/railyard/cmd/internal/build.version=$VERSION" -o /out/bin/ ./cmd/railyard-device-plugin \
 && for f in /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.* /lib/*-linux-gnu/libc.so.6 /lib/*-linux-gnu/libm.so.6 /lib/*-linux-gnu/libdl.so.2 \
      /lib/*-linux-gnu/libpthread.so.0 /lib/*-linux-gnu/librt.so.1; do [ ! -e "$f" ] || cp -L --parents "$f" /out/lib/; done

FROM scratch
COPY --from=build /out/tmp /tmp
COPY --from=build /out/passwd /etc/passwd
COPY --from=build /out/bin/ /usr/local/bin/
COPY --from=gpu /out/lib/ /
COPY --from=gpu /out/bin/ /usr/local/bin/
USER 65532:65532
