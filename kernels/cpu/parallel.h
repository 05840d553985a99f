// Threads that live for one call: they never spin, survive fork, and leave the processor when there is no work. Each
// task writes what no other writes, so results do not depend on how many threads there are.

#pragma once
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

template <class Task>
void parallel_for(int64_t tasks, int64_t threads, const Task& task) {
    std::atomic<int64_t> next{0};
    auto work = [&] {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i);
    };
    std::vector<std::thread> helpers;
    try {
        for (int64_t i = 1; i < threads && i < tasks; i++) helpers.emplace_back(work);
    } catch (const std::exception&) {
        // no more threads to be had: those that there are do the work
    }
    work();
    for (auto& helper : helpers) helper.join();
}
