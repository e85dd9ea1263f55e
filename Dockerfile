# syntax=docker/dockerfile:1
# One image for every role: a static binary on nothing.

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# With a target named, build scripts and macros stay dynamic while the program itself is static. By itself, since beside the tests
# it would get what they want of crates that both use.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" -p stagepost \
    && install -D -m 0755 "target/$target/release/stagepost" /out/stagepost \
    && strip --strip-debug /out/stagepost \
    && install -d -o 65532 -g 65532 /out/state

FROM scratch
COPY --from=build /out/stagepost /stagepost
COPY --from=build --chown=65532:65532 /out/state /var/lib/stagepost
USER 65532:65532
VOLUME /var/lib/stagepost
EXPOSE 2525 2587 2465
ENTRYPOINT ["/stagepost"]
CMD ["run"]
